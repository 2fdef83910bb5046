"""Evaluation: embeddings, heads, calibrated probabilities, metrics, the report and the submission."""
