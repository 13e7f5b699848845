"""Tests of the doctor package."""
