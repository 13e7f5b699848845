"""Tests of Together's own API."""
