"""The pipeline: from a dataset to a registered model, resumable at every step."""
