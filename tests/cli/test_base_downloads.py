"""Base models are downloaded by the command, as its user, and only where the server on this machine trains."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftpipe.cli.base_downloads import fetch_bases, prepare_base
from ftpipe.errors import UsageError
from ftpipe.modeling import base_models


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names that were downloaded from a hub that has every model."""
    names: list[str] = []
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").touch()

    def download(name: str, on_status: Any) -> Path:
        names.append(name)
        on_status(f"Downloading {name}")
        return tmp_path

    monkeypatch.setattr(base_models, "_downloaded_folder", lambda _name: None)
    monkeypatch.setattr(base_models, "_download_from_hub", download)
    return names


@pytest.fixture
def context() -> Any:
    """What the functions use of a command's context."""
    lines: list[str] = []
    return SimpleNamespace(
        quiet=False, print_status=lines.append, lines=lines, interruptible=lambda *_texts: nullcontext()
    )


@pytest.mark.parametrize(
    ("endpoint", "model", "expected"),
    [
        ("local:/data", "org/name", ["org/name"]),
        ("local:/data", "smollm2-135m-instruct", []),
        ("local:/data", "gpt-4o-mini", []),
        ("https://api.example.com/v1", "org/name", []),
    ],
)
def test_prepare_base_downloads_hub_id_for_own_server(
    context: Any, downloads: list[str], endpoint: str, model: str, expected: list[str]
) -> None:
    provider: Any = SimpleNamespace(endpoint=endpoint)
    prepare_base(context, provider, model)
    assert downloads == expected
    assert context.lines == [f"Downloading {name}" for name in expected]


@pytest.mark.parametrize("name", ["/models/mine", "./mine", "../mine", "~/mine"])
def test_fetch_bases_refuses_path(context: Any, downloads: list[str], name: str) -> None:
    """With the folder where it can be used by name."""
    with pytest.raises(UsageError) as refused:
        fetch_bases(context, [name])
    assert "link the folder into" in refused.value.hint
    assert downloads == []
