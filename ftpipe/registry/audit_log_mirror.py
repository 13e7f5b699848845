"""``events.ndjson``: a copy of the ledger beside an SQLite database, from which a lost one is rebuilt."""

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
from ftpipe.registry.tables import ledger

USUAL, NAME = "registry.db", "events.ndjson"
TAIL_BYTES = 1 << 16


def mirror_path(engine: sa.Engine) -> Path | None:
    """Where the copy of a database's ledger is; ``None`` for a database server, which has backups of its own."""
    if engine.dialect.name != "sqlite":
        return None
    path = Path(str(engine.url.database))
    return path.with_name(NAME if path.name == USUAL else f"{path.name}.{NAME}")


def append_to_mirror(engine: sa.Engine) -> None:
    """Append the entries that the copy does not have, and sync it.

    A process that was killed between its commit and its copy is made up for by the next one. The database's write
    lock is held, so that processes append one after the other.

    Raises:
        LocalStateError: The copy cannot be written; the database itself has been.
    """
    path = mirror_path(engine)
    if path is None:
        return
    with write_transaction(engine) as connection:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
            try:
                is_torn, last = _end_of(handle)
                lines = [_line(row) for row in _missing(connection, last)]
                if lines:
                    _write(handle, ("\n" if is_torn else "") + "".join(lines))
            finally:
                os.close(handle)
        except OSError as error:
            raise LocalStateError(
                f"cannot write to {path}: {error.strerror}",
                "free some disk space, or remove what stands in its place; the database is whole, then `ftpipe resume`",
            ) from error


def _write(handle: int, text: str) -> None:
    left = memoryview(text.encode())
    while left:
        left = left[os.write(handle, left) :]
    os.fsync(handle)


def _missing(connection: sa.Connection, last: dict[str, Any] | None) -> list[sa.RowMapping]:
    """Entries behind the last one that was copied; all of them where the copy ends in another database's history."""
    number = int(last["number"]) if last else 0
    found = connection.execute(sa.select(ledger.c.sha256).where(ledger.c.number == number)).scalar()
    since = number if last and found == last["sha256"] else 0
    query = sa.select(ledger).where(ledger.c.number > since).order_by(ledger.c.number)
    return list(connection.execute(query).mappings())


def _line(row: sa.RowMapping) -> str:
    return canonical_json({**row, "data": json.loads(row["data"])}).decode() + "\n"


def _end_of(handle: int) -> tuple[bool, dict[str, Any] | None]:
    """Whether the last line was cut short, and the last whole entry."""
    size, back = os.lseek(handle, 0, os.SEEK_END), TAIL_BYTES
    is_torn = False
    while size:
        start = max(0, size - back)
        tail = os.pread(handle, size - start, start)
        is_torn = not tail.endswith(b"\n")
        pieces = tail.split(b"\n")[0 if start == 0 else 1 :]
        entry = next((found for piece in reversed(pieces) if (found := _parsed(piece))), None)
        if entry is not None or start == 0:
            return is_torn, entry
        back *= 8
    return is_torn, None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, dict) and {"number", "sha256", "previous", "data"} <= set(entry) else None
    except ValueError:
        return None


def read_copy(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a copy in the order of its lines, ``data`` as an object; lines that are not whole are left out."""
    try:
        with path.open("rb") as source:
            yield from (entry for line in source if (entry := _parsed(line)))
    except OSError:
        return
