"""Base models and prices: what can be trained where, and what it costs."""
