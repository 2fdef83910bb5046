"""Positions of the 25 sites of a study: checked marks, the atlas, and regions in each view."""
