"""The registry: runs, models and aliases, in a database that survives."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpipe.errors import ConfigError, LocalStateError, UsageError
from ftpipe.records import Event, Job, Model, Run, RunState
from ftpipe.registry import Registry, open_registry
from ftpipe.registry.database import filesystem_of, write_transaction
from ftpipe.registry.journal import OperationState
from ftpipe.registry.migrations import MIGRATIONS
from ftpipe.registry.recovery import replay
from ftpipe.registry.verification import verify_registry
from tests.fakes.records import MODEL, dataset_at, spec_of


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry of its own."""
    return open_registry(tmp_path / "registry.db")


def run_of(folder: Path, run_id: str = "run-1") -> Run:
    """A run that has just begun."""
    dataset = dataset_at(folder / "a.jsonl")
    return Run(
        id=run_id,
        spec=spec_of(dataset),
        endpoint="e",
        state=RunState.PREPARED,
        created_at=1,
        dataset_sha256=dataset.sha256,
        dataset=dataset,
    )


def model_of(name: str) -> Model:
    """A model of this name."""
    return Model(
        id=name,
        base=MODEL,
        provider="openai",
        endpoint="e",
        job_id=f"job-{name}",
        file_id="f",
        dataset_sha256="0",
        created_at=1,
    )


def test_runs_round_trip(tmp_path: Path, registry: Registry) -> None:
    """From another connection too."""
    run = registry.runs.start(run_of(tmp_path), key="k", ordinal=0)
    assert open_registry(tmp_path / "registry.db").runs.get("run-1") == run


def test_runs_delete_model_keeps_cost_and_history(tmp_path: Path, registry: Registry) -> None:
    """Its aliases say why they are gone, its run can be started anew, and the audit log and its mirror agree."""
    job = Job(
        id="job-m", endpoint="e", provider="openai", status="succeeded", model="b", training_file="f", created_at=1
    )
    run = registry.runs.start(run_of(tmp_path), key="k", ordinal=0)
    registry.jobs.save(job, run_id=run.id)
    registry.jobs.save_events(job, [Event(id="event-1", created_at=1, level="info", message="begun")])
    registry.runs.register(model_of("m"), run.model_copy(update={"job": job}), price_row="")
    registry.models.set_alias("bot@live", "m")
    registry.runs.delete_model(registry.models.get("m"))
    assert (registry.models.recent(), registry.models.aliases(), registry.runs.recent()) == ([], {}, [])
    assert [(move.to_model, move.reason) for move in registry.models.alias_history("bot@live")] == [
        ("m", ""),
        ("", "the model was deleted"),
    ]
    assert [(ordinal, one.state) for ordinal, one in registry.runs.with_key("k")] == [(0, RunState.DELETED)]
    assert registry.jobs.get("job-m") == job
    registry.runs.delete_job(job)
    assert (registry.jobs.get("job-m"), registry.jobs.events("job-m")) == (None, [])
    assert list(verify_registry(registry.engine)) == []
    with sqlite3.connect(tmp_path / "registry.db") as database:
        assert database.execute("SELECT count(*) FROM costs").fetchone() == (1,)
    rebuilt = open_registry(tmp_path / "rebuilt" / "registry.db")
    shutil.copy(tmp_path / "audit-log.ndjson", tmp_path / "rebuilt" / "audit-log.ndjson")
    replay(rebuilt)
    assert (rebuilt.models.recent(), rebuilt.models.aliases(), rebuilt.jobs.recent()) == ([], {}, [])
    assert rebuilt.runs.with_key("k")[0][1].state is RunState.DELETED


def test_runs_start_same_key_and_ordinal_is_same_run(tmp_path: Path, registry: Registry) -> None:
    """The second process gets the first one's run."""
    registry.runs.start(run_of(tmp_path, "run-1"), key="k", ordinal=0)
    assert registry.runs.start(run_of(tmp_path, "run-2"), key="k", ordinal=0).id == "run-1"


def test_journal_sixteen_concurrent_writers_lose_nothing(tmp_path: Path, registry: Registry) -> None:
    """Transactions are begun as writes, so none is refused half-way."""

    def write(number: int) -> None:
        mine = open_registry(tmp_path / "registry.db")
        mine.journal.record_intent(key=f"k{number}", run_id="r", kind="create_job", endpoint="e", request_digest="x")
        mine.journal.confirm(f"k{number}", f"ftjob-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    states = [operation.state for n in range(16) if (operation := registry.journal.find(f"k{n}"))]
    assert states == [OperationState.CONFIRMED] * 16


def test_journal_confirmed_call_stays_confirmed(registry: Registry) -> None:
    """What is paid stays paid."""
    registry.journal.record_intent(key="k", run_id="r", kind="create_job", endpoint="e", request_digest="x")
    registry.journal.confirm("k", "ftjob-1")
    registry.journal.mark_unknown("k", "late news")
    registry.journal.reject("k", "late news")
    operation = registry.journal.find("k")
    assert operation is not None
    assert (operation.state, operation.remote_id) == (OperationState.CONFIRMED, "ftjob-1")
    with pytest.raises(LocalStateError):
        registry.journal.record_intent(key="k", run_id="r", kind="create_job", endpoint="e", request_digest="x")


def test_journal_refuses_key_of_another_request(registry: Registry) -> None:
    """A key stands for one thing."""
    registry.journal.record_intent(key="k", run_id="r", kind="create_job", endpoint="e", request_digest="x")
    with pytest.raises(LocalStateError):
        registry.journal.record_intent(key="k", run_id="r", kind="create_job", endpoint="e", request_digest="y")


def test_alias_moves_and_keeps_history(tmp_path: Path, registry: Registry) -> None:
    """Who it pointed to before, and why it moved."""
    for name in ("ft:one", "ft:two"):
        run = registry.runs.start(run_of(tmp_path, f"run-{name}"), key=name, ordinal=0)
        registry.runs.register(model_of(name), run, price_row="")
    registry.models.set_alias("support@production", "ft:one")
    registry.models.set_alias("support@production", "ft:two", reason="better on refunds")
    assert registry.models.get("support@production").id == "ft:two"
    assert registry.models.get("ft:one").aliases == ()
    moves = registry.models.alias_history("support@production")
    assert [(move.from_model, move.to_model, move.reason) for move in moves] == [
        (None, "ft:one", ""),
        ("ft:one", "ft:two", "better on refunds"),
    ]


def test_alias_for_unknown_model_is_refused(registry: Registry) -> None:
    """With the way to see what there is."""
    with pytest.raises(UsageError) as caught:
        registry.models.set_alias("a@b", "ft:none")
    assert "ftpipe models list" in caught.value.hint


def test_jobs_save_events_once_in_order(registry: Registry) -> None:
    """The same event told twice is one event."""
    job = Job(id="j", endpoint="e", provider="p", status="running", model="m", training_file="f", created_at=0)
    events = [
        Event(id=f"e{n}", created_at=n, level="info", type="metrics", message="", data={"step": n, "train_loss": 1 / n})
        for n in (1, 2)
    ]
    registry.jobs.save_events(job, events)
    registry.jobs.save_events(job, events)
    assert [metric.step for metric in registry.jobs.metrics("j")] == [1, 2]


def test_open_registry_refuses_foreign_database(tmp_path: Path) -> None:
    """Ftpipe does not write into other programs' files."""
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (id)")
    connection.commit()
    connection.close()
    with pytest.raises(LocalStateError, match="not ftpipe's"):
        open_registry(path)


def test_open_registry_newer_database_names_upgrade(tmp_path: Path, registry: Registry) -> None:
    """An old ftpipe must not guess."""
    connection = sqlite3.connect(tmp_path / "registry.db")
    connection.execute("INSERT INTO schema_version VALUES (?, 'tomorrow')", (len(MIGRATIONS) + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(LocalStateError) as caught:
        open_registry(tmp_path / "registry.db")
    assert "pip install -U ftpipe" in caught.value.hint


def test_open_registry_finds_damaged_database(tmp_path: Path) -> None:
    """And the hint names the repair."""
    path = tmp_path / "registry.db"
    path.write_bytes(b"this is no database at all, whatever its name says" * 100)
    with pytest.raises(LocalStateError) as caught:
        open_registry(path)
    assert "doctor --repair" in caught.value.hint


def test_open_registry_pragmas_make_commits_durable(registry: Registry) -> None:
    """The pragmas are really on."""
    with registry.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_open_registry_database_is_private(tmp_path: Path, registry: Registry) -> None:
    """It holds what was trained on what."""
    assert (tmp_path / "registry.db").stat().st_mode & 0o077 == 0


def test_open_registry_unknown_scheme_is_config_error() -> None:
    """With the forms that work."""
    with pytest.raises(ConfigError) as caught:
        open_registry("mysql://host/db")
    assert "postgresql://" in caught.value.hint


def test_registry_lock_is_released(registry: Registry) -> None:
    """And who waits is told once."""
    waited: list[int] = []
    with registry.lock("run-1", on_wait=lambda: waited.append(1)):
        pass
    with registry.lock("run-1", on_wait=lambda: waited.append(1)):
        pass
    assert waited == []


def test_filesystem_of_this_machine(tmp_path: Path) -> None:
    """On Linux the kernel tells."""
    assert filesystem_of(tmp_path) or not Path("/proc/self/mountinfo").exists()


def test_models_get_oldest_of_many(registry: Registry) -> None:
    """By its name and at its endpoint, however many came after it."""
    with write_transaction(registry.engine) as connection:
        for number in range(501):
            registry.models.insert(connection, model_of(f"ft:{number}").model_copy(update={"created_at": number}))
    assert registry.models.get("ft:0").id == "ft:0"
    assert registry.models.find("e", "ft:0") is not None
