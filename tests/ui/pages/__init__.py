"""The tests of each page."""
