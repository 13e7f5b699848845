"""The audit log: edits by other programs are named, and a lost database is rebuilt from the mirror."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import LocalStateError
from ftpipe.registry import Registry, open_registry
from ftpipe.registry.audit_log import entry_digest
from ftpipe.registry.audit_log_mirror import read_mirror
from ftpipe.registry.recovery import replay
from ftpipe.registry.verification import verify_registry
from tests.registry.test_registry import model_of, run_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A registry with a model that has an alias."""
    path = tmp_path / "registry.db"
    registry = open_registry(path)
    fill(registry, tmp_path)
    registry.close()
    return path


def fill(registry: Registry, folder: Path, name: str = "ft:one") -> None:
    """Write a run, its paid call, a model and an alias."""
    run = registry.runs.start(run_of(folder, f"run-{name}"), key=name, ordinal=0)
    registry.journal.record_intent(key=name, run_id=run.id, kind="create_job", endpoint="e", request_digest="x")
    registry.journal.confirm(name, f"job-{name}")
    registry.runs.register(model_of(name), run, price_row="")
    registry.models.set_alias("support@production", name, reason="better")


def violations(path: Path) -> list[str]:
    """What the audit says, path by path."""
    registry = open_registry(path)
    try:
        return [found.text for found in verify_registry(registry.engine)]
    finally:
        registry.close()


def edit(path: Path, sql: str, *values: object) -> None:
    """What somebody does with ``sqlite3``."""
    with sqlite3.connect(path) as database:
        database.execute(sql, values)
    database.close()


def test_verify_registry_untouched_has_no_violations(path: Path) -> None:
    """Nothing to say, also after it was opened again and written on."""
    assert violations(path) == []
    registry = open_registry(path)
    fill(registry, path.parent, "ft:two")
    registry.close()
    assert violations(path) == []


@pytest.mark.parametrize(
    ("sql", "violation"),
    [
        ("UPDATE models SET data = replace(data, '\"dataset_sha256\":\"0\"', '\"dataset_sha256\":\"f\"')",
         "models e ft:one was changed by another program: data.dataset_sha256"),
        ("UPDATE costs SET actual = 0.01", "costs e job-ft:one was changed by another program: actual"),
        ("UPDATE aliases SET model_id = 'ft:other'",
         "aliases support@production was changed by another program: model_id"),
        ("UPDATE alias_history SET reason = 'none'", "alias_history 1 was changed by another program: reason"),
        ("UPDATE operations SET state = 'rejected'", "operations ft:one was changed by another program: state"),
        ("DELETE FROM models", "models e ft:one was removed by another program"),
        ("INSERT INTO costs VALUES ('e', 'job-2', NULL, 'USD', 1, 1, '')",
         "costs e job-2 was added by another program"),
        ("UPDATE audit_log SET data = replace(data, 'better', 'worse') WHERE number = 5",
         "entry 5 was changed (alias moved)"),
        ("DELETE FROM audit_log WHERE number = 3", "entry 3 is missing"),
        ("DELETE FROM audit_log WHERE number = 5", "entry 5 is in the mirror but not in the database"),
    ],
)  # fmt: skip
def test_verify_registry_names_first_edited_row(path: Path, sql: str, violation: str) -> None:
    """Row 41: rows of every table, entries, and a log that was cut at its end."""
    edit(path, sql)
    assert violations(path)[0] == violation


def test_verify_registry_finds_forged_hashes(path: Path) -> None:
    """A forger who computes the hash of one entry breaks the next one; who computes all differs from the copy."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT number, previous, data FROM audit_log ORDER BY number").fetchall()
        forged = rows[1][2].replace("create_job", "create_nothing")
        first = entry_digest(rows[1][0], rows[1][1], forged)
        database.execute("UPDATE audit_log SET data = ?, sha256 = ? WHERE number = ?", (forged, first, rows[1][0]))
    assert violations(path)[0].startswith("entry 3 does not follow")
    with sqlite3.connect(path) as database:
        previous = first
        for number, _, data in rows[2:]:
            previous, before = entry_digest(number, previous, data), previous
            database.execute(
                "UPDATE audit_log SET previous = ?, sha256 = ? WHERE number = ?", (before, previous, number)
            )
    assert violations(path)[0] == "entry 2 differs from the mirror"


def test_audit_log_mirror_has_every_entry_and_is_private(path: Path) -> None:
    """A line an entry, appended; readable by nobody else."""
    copy = path.with_name("audit-log.ndjson")
    lines = list(read_mirror(copy))
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(
        line["sha256"] == entry_digest(line["number"], line["previous"], canonical_json(line["data"]).decode())
        for line in lines
    )
    assert copy.stat().st_mode & 0o077 == 0


def test_audit_log_mirror_catches_up_after_truncation(path: Path) -> None:
    """A process that dies between commit and copy, or within a line: the next change brings the copy up to date."""
    copy = path.with_name("audit-log.ndjson")
    whole = copy.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(whole[:3]) + whole[3][:40])
    registry = open_registry(path)
    fill(registry, path.parent, "ft:two")
    registry.close()
    assert [line["number"] for line in read_mirror(copy)] == list(range(1, 11))
    assert violations(path) == []


def test_replay_rebuilds_lost_database_from_mirror(path: Path) -> None:
    """Row 20: run, paid call, model, cost, alias and its history are there again, and the new audit log has them."""
    before = open_registry(path)
    run, model, moves = before.runs.latest(), before.models.recent(), before.models.alias_history("support@production")
    before.close()
    path.unlink()
    registry = open_registry(path)
    assert registry.models.recent() == []
    copied = replay(registry)
    assert {"runs", "operations", "models", "costs", "aliases", "alias_history"} == set(copied)
    assert (registry.runs.latest(), registry.models.recent()) == (run, model)
    assert registry.models.alias_history("support@production") == moves
    assert registry.journal.find("ft:one").remote_id == "job-ft:one"  # type: ignore[union-attr]  # it is there
    assert replay(registry) == {}
    registry.close()
    assert violations(path) == []
    assert (
        len({line["previous"] for line in read_mirror(path.with_name("audit-log.ndjson")) if line["number"] == 1}) == 1
    )


def test_replay_skips_edited_mirror_entries(path: Path) -> None:
    """Row 20: a changed line, noise, and half characters are left out."""
    copy = path.with_name("audit-log.ndjson")
    lines = copy.read_text().splitlines()
    lines[3] = lines[3].replace("ft:one", "ft:evil")
    copy.write_bytes(
        "\n".join(["\udcff noise", "[]", "{}", '{"number": 1}', *lines, '{"numb']).encode("utf-8", "surrogateescape")
    )
    path.unlink()
    registry = open_registry(path)
    replay(registry)
    assert registry.models.recent() == []
    assert registry.models.aliases() == {"support@production": "ft:one"}
    registry.close()


def test_audit_log_mirror_does_not_follow_link(path: Path) -> None:
    """Row 36: what it points at stays as it is."""
    copy, victim = path.with_name("audit-log.ndjson"), path.with_name("victim")
    victim.write_text("precious")
    copy.unlink()
    copy.symlink_to(victim)
    registry = open_registry(path)
    with pytest.raises(LocalStateError, match=r"audit-log\.ndjson"):
        fill(registry, path.parent, "ft:two")
    registry.close()
    assert victim.read_text() == "precious"
