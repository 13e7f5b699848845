"""What every test starts from: a home and a working folder of its own, and no key from the outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_FOREIGN = ("OPENAI_", "AZURE_OPENAI_", "NEBIUS_", "FTPIPE_")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point ftpipe's home and the working folder to a fresh place, and clear every key and setting."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        monkeypatch.delenv(name)
    place = tmp_path_factory.mktemp("place")
    monkeypatch.setenv("FTPIPE_HOME", str(place / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    work = place / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
