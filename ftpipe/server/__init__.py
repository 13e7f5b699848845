"""The embedded server: OpenAI's files, fine-tuning jobs, models and chat, served from this machine."""
