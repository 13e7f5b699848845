"""Running openai-python's own tests against a server; see ``seed`` for how."""
