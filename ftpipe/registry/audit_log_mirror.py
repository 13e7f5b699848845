"""``audit-log.ndjson``: a mirror of the audit log beside an SQLite database, from which a lost one is rebuilt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import LocalStateError
from ftpipe.registry.database import write_transaction
from ftpipe.registry.tables import audit_log_table

DEFAULT_DATABASE_NAME, MIRROR_NAME = "registry.db", "audit-log.ndjson"
TAIL_BYTES = 1 << 16
"""Bytes at the end of the mirror in which its last entry is looked for first."""


def mirror_path(engine: sa.Engine) -> Path | None:
    """Where the mirror of a database's audit log is; ``None`` for PostgreSQL, which has its own backups."""
    if engine.dialect.name != "sqlite":
        return None
    path = Path(str(engine.url.database))
    return path.with_name(MIRROR_NAME if path.name == DEFAULT_DATABASE_NAME else f"{path.name}.{MIRROR_NAME}")


def append_to_mirror(engine: sa.Engine) -> None:
    """Append the entries that the mirror does not have, and sync it.

    If a process was killed between its commit and its append, the next one appends its entries too. The database's
    write lock is held, so that processes append one after the other.

    Raises:
        LocalStateError: The mirror cannot be written; the database itself has been.
    """
    path = mirror_path(engine)
    if path is None:
        return
    with write_transaction(engine) as connection:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
            try:
                is_truncated, last = _last_entry(descriptor)
                lines = [_line(row) for row in _missing_entries(connection, last)]
                if lines:
                    _write(descriptor, ("\n" if is_truncated else "") + "".join(lines))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LocalStateError(
                f"cannot write to {path}: {error.strerror}",
                "free some disk space, or remove whatever blocks this path; the database is intact: `ftpipe resume`",
            ) from error


def _write(descriptor: int, text: str) -> None:
    remaining = memoryview(text.encode())
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
    os.fsync(descriptor)


def _missing_entries(connection: sa.Connection, last: dict[str, Any] | None) -> list[sa.RowMapping]:
    """Entries after the mirror's last one; all of them if the mirror ends with an entry of another database."""
    number = int(last["number"]) if last else 0
    columns = audit_log_table.c
    sha256 = connection.execute(sa.select(columns.sha256).where(columns.number == number)).scalar()
    since = number if last and sha256 == last["sha256"] else 0
    query = sa.select(audit_log_table).where(columns.number > since).order_by(columns.number)
    return list(connection.execute(query).mappings())


def _line(row: sa.RowMapping) -> str:
    return canonical_json({**row, "data": json.loads(row["data"])}).decode() + "\n"


def _last_entry(descriptor: int) -> tuple[bool, dict[str, Any] | None]:
    """Whether the last line was cut short, and the last complete entry."""
    size, window = os.lseek(descriptor, 0, os.SEEK_END), TAIL_BYTES
    is_truncated = False
    while size:
        start = max(0, size - window)
        tail = os.pread(descriptor, size - start, start)
        is_truncated = not tail.endswith(b"\n")
        lines = tail.split(b"\n")[0 if start == 0 else 1 :]
        entry = next((parsed for line in reversed(lines) if (parsed := _parse(line))), None)
        if entry is not None or start == 0:
            return is_truncated, entry
        window *= 8
    return is_truncated, None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, dict) and {"number", "sha256", "previous", "data"} <= set(entry) else None
    except ValueError:
        return None


def read_mirror(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a mirror in the order of its lines, ``data`` as an object; incomplete lines are skipped."""
    try:
        with path.open("rb") as source:
            yield from (entry for line in source if (entry := _parse(line)))
    except OSError:
        return
