"""Conversion of other formats to chat and preference JSONL."""
