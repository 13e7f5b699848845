"""Repair: a damaged registry is moved aside, never deleted, and rebuilt from what the endpoints still know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.errors import FtpipeError, LocalStateError
from ftpipe.pipeline.adopt import adopt
from ftpipe.pipeline.pipeline import RUN_ID_KEY, Pipeline
from ftpipe.records import Job, Run
from ftpipe.registry import Registry
from ftpipe.registry.recovery import recover, replay

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

SQLITE_SUFFIXES = ("", "-wal", "-shm")
"""What belongs to an SQLite database, by ending."""


def quarantine_database(path: Path, *, clock: Callable[[], float] = time.time) -> Path:
    """Rename a database and its companions, so that a new one can be begun.

    Args:
        path: The SQLite file.
        clock: UTC Unix seconds, for the name.

    Returns:
        Where the database lies now.

    Raises:
        LocalStateError: It cannot be renamed.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock()))
    names = (f"{path.name}.damaged-{stamp}{more}" for more in ("", *(f".{number}" for number in range(2, 1000))))
    aside = next(place for name in names if not (place := path.with_name(name)).exists())
    try:
        for ending in SQLITE_SUFFIXES:
            old = path.with_name(path.name + ending)
            if old.exists():
                old.rename(aside.with_name(aside.name + ending))
    except OSError as error:
        raise LocalStateError(
            f"{path} cannot be moved aside: {error.strerror}", "check the folder's permissions"
        ) from error
    return aside


def rebuild(
    registry: Registry, providers: Iterable[Provider], *, on_status: Callable[[str], None] = lambda _text: None
) -> list[Run]:
    """Take every job of ours that the endpoints list into a registry; finished ones get their model registered.

    The mirror of the audit log comes first, then what can still be read of a database that was moved aside:
    aliases, costs and doubtful calls are known nowhere else.

    An endpoint that keeps no metadata cannot tell whose its jobs are, so all of them are taken there.

    Args:
        registry: An empty one, or one that lacks some.
        providers: The endpoints to ask.
        on_status: Hears what could not be taken.
    """
    runs: list[Run] = []
    if told := replay(registry):
        on_status(f"{sum(told.values())} rows are from the mirror of the audit log")
    for aside in damaged_databases(registry)[-1:]:
        copied = recover(aside, registry)
        on_status(f"{aside.name}: {sum(copied.values())} rows were whole and are kept")
    for provider in providers:
        try:
            jobs = [job for job in provider.jobs.recent() if is_ftpipe_job(job, provider)]
        except FtpipeError as error:
            on_status(f"{provider.profile.name}: {error.message}")
            continue
        for job in jobs:
            try:
                run = adopt(job.id, provider=provider, registry=registry)
                runs.append(Pipeline(provider=provider, registry=registry).refresh(run))
            except FtpipeError as error:
                on_status(f"{job.id}: {error.message}")
    return runs


def damaged_databases(registry: Registry) -> list[Path]:
    """The databases that were moved aside here, oldest first."""
    place = Path(str(registry.engine.url.database))
    found = place.parent.glob(f"{place.name}.damaged-*") if registry.engine.dialect.name == "sqlite" else ()
    return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))


def read_everything(registry: Registry) -> None:
    """Read everything that a registry holds.

    Raises:
        LocalStateError: Something of it is damaged, although the database as a whole can be opened.
    """
    registry.models.recent()
    registry.jobs.recent(limit=1_000_000)
    for run in registry.runs.recent(limit=1_000_000):
        if run.job is not None:
            registry.jobs.events(run.job.id)


def is_ftpipe_job(job: Job, provider: Provider) -> bool:
    """Whether ftpipe made a job, as far as its endpoint can tell."""
    return not provider.profile.metadata_stored or RUN_ID_KEY in job.metadata
