"""Tests of ftpipe.ui.answers."""
