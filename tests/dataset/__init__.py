"""Tests of ftpipe.dataset."""
