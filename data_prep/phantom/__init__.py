"""A synthetic cohort of real DICOM files: one three-dimensional spine per study, cut by every series."""

from data_prep.phantom.cohort import write_cohort
from data_prep.phantom.protocols import Scanners, Size

__all__ = ["Scanners", "Size", "write_cohort"]
