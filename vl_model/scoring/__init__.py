"""Scores: the competition's metric and others, with intervals over studies."""
