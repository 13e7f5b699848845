"""The tests of moving to another host."""
