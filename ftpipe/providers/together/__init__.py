"""Together's own API: files, fine-tuning jobs, models, and the deployments that serve tuned models."""
