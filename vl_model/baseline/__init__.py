"""The plain baseline: histograms of gradients, and a logistic regression."""
