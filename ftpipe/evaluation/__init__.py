"""Is the tuned model better, and was tuning right at all? Metrics, paired statistics, gates, break-even, advice."""
