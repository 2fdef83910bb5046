"""What every training shares: processes, checkpoints, resuming, stopping, the run's record and its log."""
