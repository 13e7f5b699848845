"""Tests of the journal and the registry."""
