"""Studies -> processed_data: PNG images, crops, image-text pairs and their tables."""
