"""Recommend retrieval, prompting or fine-tuning, with a break-even estimate."""
