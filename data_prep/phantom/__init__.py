"""Write a synthetic cohort of DICOM files: one three-dimensional spine per study, sliced by each of its series."""

import sys

from workspace.interrupts import end_at_ctrl_c

if sys.argv[0] == "-m":  # `python -m data_prep.phantom` is being started: the imports take time
    end_at_ctrl_c()

from data_prep.phantom.cohort import write_cohort
from data_prep.phantom.protocols import Scanners, Size

__all__ = ["Scanners", "Size", "write_cohort"]
