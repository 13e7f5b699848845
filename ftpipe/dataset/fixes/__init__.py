"""Fixes faults automatically: writes a new file, a diff and a manifest."""

from __future__ import annotations

from ftpipe.dataset.fixes.fixer import FixResult, fix_file, quarantine

__all__ = ["FixResult", "fix_file", "quarantine"]
