"""Tests of ftpipe.ui.datasets."""
