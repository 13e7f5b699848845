"""Tests of the trainers, on models of a few thousand parameters that are made here."""
