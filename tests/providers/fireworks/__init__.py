"""Tests of the Fireworks provider."""
