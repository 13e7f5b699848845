"""``ftpipe models verify``: changed rows and weights are named, and nothing else."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from ftpipe.paths import server_dir
from ftpipe.records import RunState
from ftpipe.registry import open_registry
from ftpipe.server.storage.data_dir import DataDirectory
from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.registry.test_registry import model_of, run_of

MODEL = "ft:gpt-4.1-mini-2025-04-14:org-test::1"


@pytest.fixture
def trained(cli: CliEnvironment) -> CliEnvironment:
    """A command line for which one model was trained, and has an alias."""
    assert cli.run("train", str(chat_file()), "--provider", "openai", "--yes", "--epochs", "3").code == 0
    assert cli.run("models", "alias", "bot@production", MODEL).code == 0
    return cli


def edit(sql: str) -> None:
    """What somebody does with ``sqlite3``."""
    with sqlite3.connect(".ftpipe/registry.db") as database:
        database.execute(sql)
    database.close()


def test_models_verify_accepts_unchanged_data(trained: CliEnvironment) -> None:
    """Exit 0, by no name, by the model's, and by its alias."""
    for names in ((), (MODEL,), ("bot@production",)):
        ran = trained.run("models", "verify", *names)
        assert (ran.code, "✗" in ran.out) == (0, False)
        assert "unbroken" in ran.out


def test_models_verify_names_the_first_changed_row(trained: CliEnvironment) -> None:
    """Row 41: exit 1 with table, row and field; the doctor says it too."""
    edit('UPDATE models SET data = replace(data, \'"base":"gpt-4\', \'"base":"gpt-9\')')
    edit("INSERT INTO costs VALUES ('e', 'job-2', NULL, 'USD', 1, 1, '')")
    ran = trained.run("models", "verify")
    assert ran.code == 1
    assert ran.out.startswith("✗ registry   models ")
    assert "data.base" in ran.out
    document = trained.run("models", "verify", "--json").document
    assert [row["table"] for row in document["tampered"]] == ["models", "costs"]
    doctor = trained.run("doctor")
    assert doctor.code == 1
    assert "ftpipe models verify" in doctor.out


def test_models_verify_ignores_rows_of_other_models(trained: CliEnvironment) -> None:
    """With MODEL only what it came from counts, and the chain itself."""
    edit("INSERT INTO costs VALUES ('e', 'job-2', NULL, 'USD', 1, 1, '')")
    assert trained.run("models", "verify", MODEL).code == 0
    edit("UPDATE costs SET actual = 0 WHERE job_id = 'ftjob-1'")
    ran = trained.run("models", "verify", MODEL)
    assert (ran.code, "ftjob-1" in ran.out) == (1, True)
    edit("DELETE FROM audit_log WHERE number = 2")
    assert "entry 2 is missing" in trained.run("models", "verify", MODEL).out


def register_local_model() -> None:
    registry = open_registry()
    run = registry.runs.start(run_of(Path.cwd()), key="k", ordinal=0)
    local = model_of("ft:local").model_copy(update={"provider": "local", "job_id": "ftjob-local"})
    assert registry.runs.register(local, run, price_row="").state == RunState.REGISTERED
    registry.close()


def test_models_verify_compares_weights_with_the_manifest(cli: CliEnvironment) -> None:
    """Files of a model trained here: whole, changed, gone, and a manifest that cannot be read."""
    register_local_model()
    folder = DataDirectory(server_dir()).job("ftjob-local").checkpoint_dir(5)
    folder.mkdir(parents=True)
    files = {}
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).write_bytes(name.encode())
        files[name] = {"sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": len(name)}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    ran = cli.run("models", "verify", "ft:local")
    assert (ran.code, "2 files unchanged since training" in ran.out) == (0, True)
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    ran = cli.run("models", "verify")
    assert (ran.code, "adapter_model.safetensors is not what the trainer wrote" in ran.out) == (1, True)
    (folder / "adapter_config.json").unlink()
    assert "adapter_config.json is missing" in cli.run("models", "verify").out
    (folder / "manifest.json").write_text("{")
    assert "manifest.json cannot be read" in cli.run("models", "verify").out
