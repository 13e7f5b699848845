"""Damaged, cut, emptied and edited databases: found, explained, moved aside, and rebuilt from what is left."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpipe.doctor.repair import damaged_databases, quarantine_database, read_all_rows, rebuild
from ftpipe.errors import FtpipeError, LocalStateError
from ftpipe.records import RunState
from ftpipe.registry import open_registry
from tests.faults.environment import ONE_OF_EACH, FaultEnvironment

SEED = 7


def zeroes(path: Path) -> None:
    """Nothing but NUL bytes, as after a power cut on some file systems."""
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    """Cut to nothing."""
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """The second half is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path: Path) -> None:
    """The first page is not SQLite's."""
    path.write_bytes(random.Random(SEED).randbytes(4096) + path.read_bytes()[4096:])


def overwritten(path: Path) -> None:
    """Pages in the middle hold something else."""
    data = bytearray(path.read_bytes())
    for start in range(4096 * 2, len(data) - 4096, 4096 * 4):
        data[start : start + 512] = b"\xff" * 512
    path.write_bytes(data)


def foreign(path: Path) -> None:
    """A text file in its place."""
    path.write_text("this is not a database\n" * 400)


DAMAGES = [zeroes, emptied, cut, noise, overwritten, foreign]


@pytest.fixture
def trained(environment: FaultEnvironment) -> FaultEnvironment:
    """A run that ended well, with an alias that only the registry knows."""
    environment.train()
    environment.registry.models.set_alias("support@production", "ftjob-0001", reason="it is good")
    environment.registry.close()
    return environment


def look(path: Path) -> None:
    """Open a registry and read all of it."""
    registry = open_registry(path)
    try:
        read_all_rows(registry)
    finally:
        registry.close()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_recovery_of_damaged_database(trained: FaultEnvironment, damage: Callable[[Path], None]) -> None:
    """Row 20: exit 6 with the way out; the old file is kept; run and model are there again, and nothing is paid."""
    damage(trained.path)
    with pytest.raises(LocalStateError) as caught:
        look(trained.path)
    assert caught.value.exit_code == 6
    assert "--repair" in caught.value.hint
    aside = quarantine_database(trained.path)
    trained._registry = open_registry(trained.path)
    pipeline = trained.pipeline()
    runs = rebuild(trained.registry, [pipeline.provider])
    assert aside.exists()
    assert [run.state for run in runs] == [RunState.REGISTERED]
    assert [model.id for model in trained.registry.models.recent()] == ["ft:gpt-4.1-mini-2025-04-14:org-test::0001"]
    assert trained.train().state == RunState.REGISTERED
    assert len(trained.endpoint.jobs) == 1


def test_recovery_keeps_run_id(trained: FaultEnvironment) -> None:
    """The job's metadata holds the run's id, so that ``ftpipe resume RUN`` still means the same."""
    before = trained.registry.runs.latest()
    emptied(trained.path)
    quarantine_database(trained.path)
    trained._registry = open_registry(trained.path)
    (run,) = rebuild(trained.registry, [trained.pipeline().provider])
    assert before is not None
    assert run.id == before.id


@pytest.mark.parametrize("number", range(6))
def test_recovery_flipped_bytes_are_found_or_harmless(trained: FaultEnvironment, number: int) -> None:
    """Row 20: a typed error, never another one; what can be read can be salvaged, and nothing is paid again."""
    dice = random.Random(number)
    data = bytearray(trained.path.read_bytes())
    for _ in range(4**number):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    trained.path.write_bytes(data)
    try:
        look(trained.path)
    except LocalStateError:
        quarantine_database(trained.path)
        trained._registry = open_registry(trained.path)
        rebuild(trained.registry, [trained.pipeline().provider])
        read_all_rows(trained.registry)
    else:
        trained._registry = open_registry(trained.path)
    try:
        assert trained.train().state == RunState.REGISTERED
    except FtpipeError as error:  # a value that was flipped within the rules, for example an id
        assert error.hint
    assert len(trained.endpoint.jobs) == 1


def test_recovery_copies_intact_half_of_database(trained: FaultEnvironment) -> None:
    """Aliases, their history and costs are nowhere else: they are taken from the pages that are whole."""
    with sqlite3.connect(trained.path) as database:
        database.execute("UPDATE runs SET spec = 'not json'")
    with pytest.raises(LocalStateError, match="runspec"):
        look(trained.path)
    quarantine_database(trained.path)
    trained._registry = open_registry(trained.path)
    messages: list[str] = []
    rebuild(trained.registry, [trained.pipeline().provider], on_status=messages.append)
    assert trained.registry.models.aliases() == {"support@production": "ft:gpt-4.1-mini-2025-04-14:org-test::0001"}
    assert trained.registry.models.alias_history("support@production")[0].reason == "it is good"
    assert any("intact rows" in message for message in messages)
    read_all_rows(trained.registry)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_recovery_without_endpoint(trained: FaultEnvironment, damage: Callable[[Path], None]) -> None:
    """Row 20: the mirror of the audit log alone brings back the run, the model and what only the registry knew."""
    model = trained.registry.models.get("support@production")
    trained.registry.close()
    damage(trained.path)
    quarantine_database(trained.path)
    trained._registry = open_registry(trained.path)
    assert rebuild(trained.registry, []) == []
    assert trained.registry.models.get("support@production") == model
    run = trained.registry.runs.latest()
    assert run is not None
    assert (run.state, run.model) == (RunState.REGISTERED, model)
    assert trained.train().id == run.id
    assert trained.counts() == ONE_OF_EACH


@pytest.mark.slow
def test_recovery_keeps_unknown_call(environment: FaultEnvironment) -> None:
    """The journal is salvaged too: a call that may have been executed is still looked for before another is made."""
    environment.train()
    with sqlite3.connect(environment.path) as database:
        database.execute("UPDATE operations SET state = 'unknown', remote_id = NULL")
        database.execute("UPDATE runs SET cost = '{'")
    environment.registry.close()
    environment.path.with_name("audit-log.ndjson").unlink()
    quarantine_database(environment.path)
    environment._registry = open_registry(environment.path)
    rebuild(environment.registry, [])
    assert [row[0] for row in sqlite3.connect(environment.path).execute("SELECT state FROM operations")] == ["unknown"]


def test_recovery_lost_write_ahead_log_does_not_pay_twice(environment: FaultEnvironment) -> None:
    """Row 20: the last commits are gone with the log; the key in the job's metadata is found before any new call."""
    environment.train()
    environment.registry.close()
    with sqlite3.connect(environment.path) as database:
        for table in ("operations", "jobs", "models", "costs", "events"):
            database.execute(f"DELETE FROM {table}")
        database.execute("UPDATE runs SET state = 'uploaded', job_id = NULL, model_id = NULL")
    assert environment.resume().state == RunState.REGISTERED
    assert len(environment.endpoint.jobs) == 1


def test_recovery_lost_registry_does_not_pay_twice(trained: FaultEnvironment) -> None:
    """The whole file is deleted: the same train finds its job at the endpoint."""
    trained.path.unlink()
    trained._registry = None
    for lock in (trained.path.parent / "locks").iterdir():
        lock.unlink()
    assert trained.train().state == RunState.REGISTERED
    assert len(trained.endpoint.jobs) == 1


def test_recovery_twice_in_a_second_overwrites_nothing(trained: FaultEnvironment) -> None:
    """What was moved aside stays, whatever comes after it."""
    first = quarantine_database(trained.path, clock=lambda: 1_795_000_000.0)
    open_registry(trained.path).close()
    second = quarantine_database(trained.path, clock=lambda: 1_795_000_000.0)
    assert first != second
    assert first.exists()
    assert second.exists()
    assert len(damaged_databases(open_registry(trained.path))) == 2
