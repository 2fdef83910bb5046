"""One DICOM file -> its grey images, or the fault that says why not."""
