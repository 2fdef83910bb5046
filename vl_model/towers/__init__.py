"""Image and text towers of open_clip and transformers, with one interface."""
