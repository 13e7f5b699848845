"""Tests of the inference server in place of the engine."""
