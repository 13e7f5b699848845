"""Fireworks over its own API: datasets, supervised and DPO jobs, models, deployments."""
