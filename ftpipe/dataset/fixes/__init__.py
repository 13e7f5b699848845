"""Mends what can be mended without a person: a new file, a diff, a manifest, and a check of the result."""

from __future__ import annotations

from ftpipe.dataset.fixes.fixer import FixResult, fix_file, quarantine

__all__ = ["FixResult", "fix_file", "quarantine"]
