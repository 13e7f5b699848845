"""Real clients of the OpenAI API against the server: ``python -m tests.clients``."""
