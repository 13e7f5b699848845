"""Sweeps: train one dataset over a grid of hyperparameters and find the best model."""
