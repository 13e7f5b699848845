"""Scan a file once: parse, check, count tokens, in parallel where it pays."""
