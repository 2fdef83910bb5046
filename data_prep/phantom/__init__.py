"""Write a synthetic cohort of DICOM files: one three-dimensional spine per study, sliced by each of its series."""

from data_prep.phantom.cohort import write_cohort
from data_prep.phantom.protocols import Scanners, Size

__all__ = ["Scanners", "Size", "write_cohort"]
