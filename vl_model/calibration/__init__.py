"""Calibration: from a model's probabilities to calibrated and to metric-optimal ones."""
