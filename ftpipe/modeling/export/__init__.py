"""Write tuned models for other programs, and check that these give the answers of the trainer's model."""
