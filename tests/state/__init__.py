"""Attacks on the local state: damaged, old, new, full and read-only databases, other clocks, PostgreSQL."""
