"""Answers of models on the page: conversations with several models at once, and what people think of the answers."""
