"""A tiny base model for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.tiny_model import save_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved base model of some thousand parameters."""
    return save_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def float32(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes in float32, also in a trainer that is started as a process.

    If bfloat16 is faster, a job uses it, and its rounding is coarser than what these tests compare.
    """
    code = "import ftpipe.modeling.device as device\ndevice.has_bfloat16_instructions = lambda: False\n"
    folder = tmp_path_factory.mktemp("float32")
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)  # a trainer gets sys.path as its PYTHONPATH
    monkeypatch.setattr("ftpipe.modeling.device.has_bfloat16_instructions", lambda: False)
