"""Sweeps: one dataset trained over a grid of hyperparameters, compared, and the best one named."""
