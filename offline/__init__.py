"""Bundles: all that grading needs, for a machine without internet, such as a Kaggle notebook."""
