"""Transactions of the server's database, and its migrations."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text

from ftpipe.errors import LocalStateError
from ftpipe.server.storage import FileRow, database, open_store
from ftpipe.server.storage.tables import Base


def file_row(file_id: str) -> FileRow:
    return FileRow(file_id, "local", "a.jsonl", "fine-tune", bytes=1, sha256="0", created_at=1)


def add_color(connection: Connection) -> None:
    """A made-up migration."""
    connection.execute(text("ALTER TABLE files ADD COLUMN color VARCHAR NOT NULL DEFAULT 'red'"))


def version_of(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def colors_of(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [row[0] for row in connection.execute("SELECT color FROM files")]


def make_database(path: Path) -> None:
    """A database of version 1 with one file."""
    store = open_store(path)
    with store.write() as tx:
        tx.files.add(file_row("file-1"))
    store.close()


def test_open_store_makes_all_tables_at_version_1(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    open_store(path).close()
    assert version_of(path) == 1
    store = open_store(path)
    with store.read() as tx:
        assert set(inspect(tx.session.connection()).get_table_names()) >= set(Base.metadata.tables)
    store.close()


def test_open_store_migrates_version_1_and_keeps_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make_database(path)
    monkeypatch.setattr(database, "MIGRATIONS", (add_color,))
    for _ in range(2):  # a migration is applied once
        store = open_store(path)
        with store.read() as tx:
            assert [row.id for row in tx.files.all()] == ["file-1"]
        store.close()
        assert (version_of(path), colors_of(path)) == (2, ["red"])


def test_open_store_applies_only_missing_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make_database(path)
    monkeypatch.setattr(database, "MIGRATIONS", (add_color,))
    open_store(path).close()

    def to_blue(connection: Connection) -> None:
        connection.execute(text("UPDATE files SET color = 'blue'"))

    monkeypatch.setattr(database, "MIGRATIONS", (add_color, to_blue))
    open_store(path).close()
    assert (version_of(path), colors_of(path)) == (3, ["blue"])


def test_open_store_undoes_failed_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.db"
    make_database(path)

    def fail(connection: Connection) -> None:
        add_color(connection)
        connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    monkeypatch.setattr(database, "MIGRATIONS", (fail,))
    with pytest.raises(LocalStateError):
        open_store(path)
    assert version_of(path) == 1
    with pytest.raises(sqlite3.OperationalError):
        colors_of(path)


def test_open_store_refuses_newer_version_and_names_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    make_database(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=2")
    with pytest.raises(LocalStateError) as refused:
        open_store(path)
    assert "version 2" in refused.value.message
    assert "pip install -U ftpipe" in refused.value.hint
    assert version_of(path) == 2


def test_open_store_refuses_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LocalStateError):
        open_store(path)


def test_write_is_undone_by_exception_and_skips_after_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path / "server.db")
    calls: list[str] = []
    with pytest.raises(RuntimeError), store.write() as tx:
        tx.files.add(file_row("file-1"))
        tx.after_commit.append(lambda: calls.append("undone"))
        raise RuntimeError
    with store.write() as tx:
        assert tx.files.all() == []
        tx.after_commit.append(lambda: calls.append("done"))
        assert calls == []
    assert calls == ["done"]
    store.close()


def test_write_waits_for_other_writer(tmp_path: Path) -> None:
    """Both read before they write: without the lock at the start one of them would fail or lose its change."""
    store = open_store(tmp_path / "server.db")

    def add() -> None:
        for _ in range(20):
            with store.write() as tx:
                number = len(tx.files.all())
                tx.files.add(file_row(f"file-{number}"))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert [row.id for row in tx.files.all()] == [f"file-{number}" for number in range(60)]
    store.close()


def test_row_read_in_transaction_is_a_snapshot(tmp_path: Path) -> None:
    """What the supervisor holds does not change under it."""
    store = open_store(tmp_path / "server.db")
    make_database(tmp_path / "server.db")
    with store.read() as tx:
        row = tx.files.all()[0]
    with store.write() as tx:
        tx.files.delete("file-1")
    assert (row.id, row.filename) == ("file-1", "a.jsonl")
    store.close()
