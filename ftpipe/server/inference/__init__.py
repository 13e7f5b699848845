"""The engine in a process of its own, so that models and HTTP do not share one interpreter lock."""
