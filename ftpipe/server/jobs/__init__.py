"""What happens to a job: validation, trainer process, state transitions."""
