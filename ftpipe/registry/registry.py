"""The registry: one database with runs, jobs, models, files, evaluations and the journal; and its locks."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from ftpipe.errors import LocalStateError
from ftpipe.registry.audit_log import AuditLog
from ftpipe.registry.database import advisory_lock, database_location
from ftpipe.registry.deployments import DeploymentRepository
from ftpipe.registry.evaluations import EvaluationRepository
from ftpipe.registry.files import FileRepository, UploadRepository
from ftpipe.registry.jobs import JobRepository
from ftpipe.registry.journal import Journal
from ftpipe.registry.models import ModelRepository
from ftpipe.registry.runs import RunRepository


class Registry:
    """Everything that ftpipe remembers, in one database.

    Args:
        engine: An open database, from ``open_registry``.
        clock: UTC Unix seconds.

    Attributes:
        runs: Runs of the pipeline.
        jobs: Jobs with their events and metrics.
        models: Models with their lineage and cost, and aliases.
        files: Files at endpoints.
        uploads: Unfinished multi-part uploads.
        evaluations: Results of evaluations.
        deployments: What serves models at hosts for a price per hour.
        journal: Paid calls.
        audit_log: A chained entry for each change of the others.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.jobs = JobRepository(engine, clock)
        self.models = ModelRepository(engine, clock)
        self.runs = RunRepository(engine, clock, jobs=self.jobs, models=self.models)
        self.files = FileRepository(engine, clock)
        self.uploads = UploadRepository(engine)
        self.evaluations = EvaluationRepository(engine, clock)
        self.deployments = DeploymentRepository(engine, clock)
        self.journal = Journal(engine, clock)
        self.audit_log = AuditLog(engine)

    @property
    def location(self) -> str:
        """Path of an SQLite database; URL of another one, without a password."""
        url = self.engine.url
        return str(url.database) if url.drivername.startswith("sqlite") else database_location(self.engine)

    def close(self) -> None:
        """Close the database."""
        self.engine.dispose()

    @contextlib.contextmanager
    def lock(self, name: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a lock that one process at a time can have; it is released if its holder dies.

        Args:
            name: What is locked, for example a run's id.
            on_wait: Called once if another process holds it.
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
                    "check the folder's permissions and the free disk space",
                ) from error
            try:
                yield
            finally:
                lock.release()
            return
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with advisory_lock(self.engine, number, on_wait):
            yield
