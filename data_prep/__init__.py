"""From DICOM files and the competition's tables to image-text pairs."""
