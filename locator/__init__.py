"""The landmark model that finds the 25 sites in unmarked studies, with its own training."""
