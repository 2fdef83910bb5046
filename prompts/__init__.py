"""The sentences, as data that a radiologist can edit, and the two ways across: render and parse."""
