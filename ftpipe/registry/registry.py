"""The registry: runs, files, jobs with their events, models with their lineage, aliases and costs; and its locks."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from ftpipe.errors import LocalStateError
from ftpipe.registry.database import advisory_lock, read_transaction
from ftpipe.registry.evaluations import EvaluationRecords
from ftpipe.registry.files import FileRecords, UploadParts
from ftpipe.registry.journal import Journal
from ftpipe.registry.runs import RunRecords
from ftpipe.registry.tables import ledger


class Registry(RunRecords, FileRecords, EvaluationRecords):
    """Everything that ftpipe remembers, in one database.

    Args:
        engine: An open database, from ``open_registry``.
        clock: UTC Unix seconds.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        super().__init__(engine, clock)
        self.journal = Journal(engine, clock)
        self.uploads = UploadParts(engine)

    def ledger_size(self) -> int:
        """How many entries the ledger has."""
        with read_transaction(self.engine) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(ledger)).scalar() or 0

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    @contextlib.contextmanager
    def exclusive(self, name: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a lock that one process at a time can have; it is free again when its holder dies.

        Args:
            name: What is locked, for example a run's id.
            on_wait: Called once where another process holds it.
        """
        if self.engine.dialect.name == "sqlite":
            from filelock import FileLock, Timeout

            folder = Path(str(self.engine.url.database)).parent / "locks"
            try:
                folder.mkdir(exist_ok=True, mode=0o700)
                lock = FileLock(folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    on_wait()
                    lock.acquire()
            except OSError as error:
                raise LocalStateError(
                    f"cannot lock {folder}: {error.strerror or error}",
                    "check the folder's permissions and its disk's free space",
                ) from error
            try:
                yield
            finally:
                lock.release()
            return
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with advisory_lock(self.engine, number, on_wait):
            yield
