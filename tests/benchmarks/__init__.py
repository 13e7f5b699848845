"""Benchmarks: ``python -m tests.benchmarks.prepare`` prints a table; nothing here is part of the package."""
