"""What every training run shares: processes, checkpoints, resuming, stopping, and the records it keeps."""
