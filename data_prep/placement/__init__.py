"""Where the 25 sites of a study lie: marks, regions and the atlas."""
