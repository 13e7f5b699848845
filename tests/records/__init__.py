"""The tests of the records."""
