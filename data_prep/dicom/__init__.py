"""Read one DICOM file: its grey images, or the fault that explains why it gives none."""
