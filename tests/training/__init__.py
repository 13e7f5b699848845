"""Tests of training, on models of a few thousand parameters that are created here."""
