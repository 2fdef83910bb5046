"""Text queries: the index of a run, and its ranked answers."""
