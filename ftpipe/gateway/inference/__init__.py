"""Answers from an inference server of the owner, vLLM or SGLang, which holds the base models and gets the adapters."""
