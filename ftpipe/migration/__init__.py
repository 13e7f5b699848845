"""Moving tuned models to another host: what is there, how it answers, and where it goes."""
