"""The landmark model that finds the 25 sites in unannotated studies, with its own training."""
