"""Evaluation: embeddings, heads, calibrated probabilities, predictions and the submission."""
