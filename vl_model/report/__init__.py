"""The report of a run: its figures, plots, pictures and words."""
