"""The model: towers, adapters, loss, training, heads, calibration, reports."""
