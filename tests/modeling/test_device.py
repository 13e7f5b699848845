"""The device: found with torch by the trainer, and without it by the check of a dataset."""

from __future__ import annotations

import pytest

from ftpipe.modeling.device import has_accelerator, select_device


def test_has_accelerator_agrees_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer and check have the same limit of tokens only if this holds."""
    assert has_accelerator() == select_device().is_accelerator
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_accelerator()
