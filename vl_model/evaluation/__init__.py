"""Embeddings -> heads, calibrated probabilities, metrics, report and submission."""
