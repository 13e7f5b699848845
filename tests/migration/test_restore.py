"""A backup becomes a registry again: on another machine, twice, and never from files that were changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.errors import LocalStateError, UsageError
from ftpipe.migration.backup import Backup, Selection, select_model
from ftpipe.migration.backup_folder import MANIFEST, BackupFolder
from ftpipe.migration.restore import Restore
from ftpipe.records import RunState
from ftpipe.registry import Registry, open_registry
from tests.fakes.account_contents import MAIN, MAIN_MODEL, TUNES
from tests.fakes.openai_account import OpenAIAccount
from tests.migration.conftest import RunCommand
from tests.migration.test_backup import header_of, provider_of


@pytest.fixture
def backup(account: OpenAIAccount, tmp_path: Path) -> Path:
    """A backup of one model."""
    provider = provider_of(account)
    path = tmp_path / "backup"
    folder = BackupFolder.create(path, header_of(provider))
    Backup(provider, folder).run(select_model(provider.account, MAIN_MODEL))
    provider.close()
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """The empty registry of another machine."""
    opened = open_registry(tmp_path / "registry.db")
    yield opened
    opened.close()


def restore(path: Path, registry: Registry) -> object:
    return Restore(BackupFolder.open(path), registry).run()


def test_restore_brings_back_the_model_with_its_lineage(
    backup: Path, registry: Registry, account: OpenAIAccount
) -> None:
    restore(backup, registry)
    model = registry.models.get(MAIN_MODEL)
    job = account.jobs[MAIN.id]
    assert (model.base, model.job_id, model.provider) == (MAIN.base, MAIN.id, "test")
    assert model.trained_tokens == job["trained_tokens"]
    assert model.resolved is not None
    assert model.resolved.n_epochs == 3
    assert [point.step for point in model.checkpoints] == [2, 4]
    assert model.base_shutdown_date == "2027-01-14"
    run = registry.runs.find(MAIN_MODEL)
    assert run is not None
    assert run.state == RunState.REGISTERED
    assert run.spec.data.read_bytes() == account.contents[job["training_file"]]
    assert run.dataset_sha256 == model.dataset_sha256
    assert run.spec.validation is not None
    assert len(registry.jobs.events(MAIN.id)) == len(account.account.events[MAIN.id])
    assert len(registry.jobs.metrics(MAIN.id)) == 60


def test_restore_twice_changes_nothing(backup: Path, registry: Registry) -> None:
    restore(backup, registry)
    entries = registry.audit_log.size()
    restore(backup, registry)
    assert registry.audit_log.size() == entries


def test_restore_of_an_account_with_all_oddities(account: OpenAIAccount, tmp_path: Path, registry: Registry) -> None:
    provider = provider_of(account)
    folder = BackupFolder.create(tmp_path / "all", header_of(provider))
    by_kind = {(tune.status, tune.oddities): tune for tune in TUNES}
    Backup(provider, folder).run(Selection([tune.id for tune in by_kind.values()]))
    provider.close()
    result = Restore(BackupFolder.open(tmp_path / "all"), registry).run()
    assert result.jobs == len(by_kind) > 20
    jobs = [account.jobs[tune.id] for tune in by_kind.values()]
    named = {job["fine_tuned_model"] for job in jobs if job["fine_tuned_model"]}
    assert {model.id for model in result.models} == named
    assert {model.id for model in registry.models.recent()} == named
    states = {run.job.status: run.state for run in registry.runs.recent(None) if run.job}
    assert states["failed"] == states["cancelled"] == RunState.FAILED
    assert states["running"] == RunState.CREATED
    assert {item.id for item in result.missing} == {item.id for _, item in folder.missing.items()}


def test_restore_names_changed_files_and_writes_nothing(backup: Path, registry: Registry) -> None:
    path = next(backup.glob("jobs/*/job.json"))
    path.write_bytes(path.read_bytes().replace(b"succeeded", b"cancelled"))
    with pytest.raises(LocalStateError, match=r"jobs/.*/job\.json does not have the SHA-256"):
        restore(backup, registry)
    assert registry.runs.recent() == []
    assert registry.jobs.recent() == []


def test_restore_names_files_that_are_not_there(backup: Path, registry: Registry) -> None:
    path = next(backup.glob("files/*/content.jsonl"))
    path.unlink()
    result = Restore(BackupFolder.open(backup), registry).run()
    assert [item.code for item in result.missing] == ["absent"]
    assert str(path.relative_to(backup)) in result.missing[0].reason
    assert [model.id for model in result.models] == [MAIN_MODEL]


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "jobs/../../x/job.json", "jobs/x/other.json", "x"])
def test_restore_refuses_paths_outside_of_the_folder(backup: Path, registry: Registry, path: str) -> None:
    with (backup / MANIFEST).open("a") as file:
        entry = {"path": path, "sha256": "0" * 64, "bytes": 1, "kind": "job", "id": "x"}
        file.write(json.dumps(entry) + "\n")
    with pytest.raises(LocalStateError, match="is not a path of a backup") as caught:
        restore(backup, registry)
    assert path in caught.value.message
    assert registry.runs.recent() == []


def test_restore_refuses_links(backup: Path, registry: Registry, tmp_path: Path) -> None:
    path = next(backup.glob("jobs/*/job.json"))
    path.rename(tmp_path / "job.json")
    path.symlink_to(tmp_path / "job.json")
    with pytest.raises(LocalStateError, match="is not a plain file"):
        restore(backup, registry)


def test_restore_refuses_a_job_of_another_endpoint(backup: Path, registry: Registry) -> None:
    """Somebody who can write the hashes, too, cannot put a job where it does not belong."""
    lines = (backup / MANIFEST).read_text().splitlines()
    header = json.loads(lines[0]) | {"endpoint": "https://elsewhere.example/v1"}
    (backup / MANIFEST).write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    with pytest.raises(LocalStateError, match="of another endpoint"):
        restore(backup, registry)
    assert registry.runs.recent() == []


@pytest.mark.parametrize("line", ["{}", "not json", '{"missing":{}}', "[" * 5000])
def test_restore_refuses_a_manifest_that_no_backup_writes(backup: Path, registry: Registry, line: str) -> None:
    with (backup / MANIFEST).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LocalStateError, match=r"line \d+ of .*manifest\.jsonl is not a line of a manifest"):
        restore(backup, registry)


def test_restore_refuses_other_folders(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(UsageError, match="is not a backup"):
        restore(tmp_path, registry)


def test_models_restore_on_another_machine(
    run_command: RunCommand, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Adopted and named on one machine, backed up, restored with an empty home and without a key."""
    assert run_command("jobs", "adopt", MAIN.id, "--provider", "openai").code == 0
    assert run_command("models", "alias", "support@production", MAIN_MODEL).code == 0
    assert run_command("models", "backup", "support@production", str(tmp_path / "saved")).code == 0
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setenv("FTPIPE_HOME", str(tmp_path / "other-home"))
    monkeypatch.delenv("OPENAI_API_KEY")
    requests = len(account.log)
    done = run_command("models", "restore", str(tmp_path / "saved"))
    assert done.code == 0, done.err
    assert f"{MAIN_MODEL}  (support@production)" in done.out
    shown = run_command("models", "show", "support@production", "--json").document["model"]
    assert shown["id"] == MAIN_MODEL
    assert shown["dataset_sha256"]
    assert len(account.log) == requests
    again = run_command("models", "restore", str(tmp_path / "saved"), "--json").document
    assert (again["jobs"], again["known"], again["aliases"]) == (0, 1, [])
