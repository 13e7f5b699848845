"""A tiny base that all trainer tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.trainers.tiny import save_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved base model of some thousand parameters."""
    return save_base(tmp_path_factory.mktemp("tiny") / "base")
