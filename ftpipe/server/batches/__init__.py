"""Batches: requests of a file that are answered in the background."""
