"""The sites of `processed_data`, their tiles, and the batches of a training run."""
