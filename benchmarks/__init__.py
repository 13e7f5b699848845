"""Benchmarks: ``python -m benchmarks.prepare`` prints a table; nothing here is part of the package."""
