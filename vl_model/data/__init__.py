"""processed_data -> sites, their tiles, and the batches of a training run."""
