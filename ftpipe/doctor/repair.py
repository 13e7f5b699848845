"""Repair of the registry: a damaged database is renamed, never deleted, and rebuilt from what is still known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.config import Settings
from ftpipe.errors import FtpipeError, LocalStateError, UsageError
from ftpipe.paths import default_registry
from ftpipe.pipeline.adopt import adopt
from ftpipe.pipeline.pipeline import RUN_ID_KEY, Pipeline
from ftpipe.records import Job, Run
from ftpipe.registry import Registry
from ftpipe.registry.recovery import recover, replay

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

SQLITE_SUFFIXES = ("", "-wal", "-shm")
"""Suffixes of the files of an SQLite database."""


@dataclass(frozen=True)
class RepairResult:
    """What a repair did."""

    quarantined: Path | None
    """The damaged database under its new name; ``None`` if the registry was intact."""
    runs: list[Run]
    """Runs of the provider's jobs that are in the registry now."""


def repair_registry(
    settings: Settings,
    *,
    open_registry: Callable[[], Registry],
    open_provider: Callable[[bool], Provider],
    on_status: Callable[[str], None] = lambda _text: None,
) -> RepairResult:
    """Move the registry aside if it is damaged, and rebuild it.

    Args:
        settings: The configuration.
        open_registry: Opens the registry; creates an empty one if there is none.
        open_provider: Opens the provider whose jobs are adopted; called with whether the registry was damaged. If it
            fails, the rest of the repair is still useful.
        on_status: Called with messages about the progress.

    Raises:
        UsageError: The registry is on a database server, which has its own tools.
        LocalStateError: The damaged database cannot be renamed.
    """
    location = settings.config.registry or str(default_registry())
    if "://" in location and not location.startswith("sqlite:///"):
        raise UsageError("the registry is on a database server", "restore it with the server's own tools")
    quarantined = None
    try:
        read_all_rows(open_registry())
    except LocalStateError as error:
        on_status(error.message)
        quarantined = quarantine_database(Path(location.removeprefix("sqlite:///")))
        on_status(f"renamed it to {quarantined}")
    providers = []
    try:
        providers.append(open_provider(quarantined is not None))
    except FtpipeError as error:
        on_status(f"the provider's jobs are not read: {error.message}")
    return RepairResult(quarantined, rebuild(open_registry(), providers, on_status=on_status))


def quarantine_database(path: Path, *, clock: Callable[[], float] = time.time) -> Path:
    """Rename a database and its companion files, so that a new one can be created.

    Args:
        path: The SQLite file.
        clock: UTC Unix seconds, for the name.

    Returns:
        The new path of the database.

    Raises:
        LocalStateError: It cannot be renamed.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock()))
    names = (f"{path.name}.damaged-{stamp}{more}" for more in ("", *(f".{number}" for number in range(2, 1000))))
    target = next(candidate for name in names if not (candidate := path.with_name(name)).exists())
    try:
        for suffix in SQLITE_SUFFIXES:
            old = path.with_name(path.name + suffix)
            if old.exists():
                old.rename(target.with_name(target.name + suffix))
    except OSError as error:
        raise LocalStateError(
            f"{path} cannot be renamed: {error.strerror}", "check the folder's permissions"
        ) from error
    return target


def rebuild(
    registry: Registry, providers: Iterable[Provider], *, on_status: Callable[[str], None] = lambda _text: None
) -> list[Run]:
    """Fill a registry from the audit log's mirror, a damaged database, and the jobs that providers list.

    The mirror comes first, then what can still be read of a renamed database: aliases, costs and uncertain calls are
    stored nowhere else. A finished job gets its model registered. An endpoint that stores no metadata cannot tell who
    created a job, so all of its jobs are adopted.

    Args:
        registry: An empty registry, or one with missing rows.
        providers: The endpoints whose jobs are adopted.
        on_status: Called with messages about what was and was not restored.
    """
    runs: list[Run] = []
    if replayed := replay(registry):
        on_status(f"{sum(replayed.values())} rows are from the mirror of the audit log")
    for path in damaged_databases(registry)[-1:]:
        recovered = recover(path, registry)
        on_status(f"{sum(recovered.values())} intact rows are from {path.name}")
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
    """The renamed databases beside the registry, oldest first."""
    if registry.engine.dialect.name != "sqlite":
        return []
    path = Path(str(registry.engine.url.database))
    renamed = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(path for path in renamed if not path.name.endswith(("-wal", "-shm")))


def read_all_rows(registry: Registry) -> None:
    """Read all rows of a registry.

    Raises:
        LocalStateError: A row is damaged, although the database can be opened.
    """
    registry.models.recent()
    registry.jobs.recent(limit=1_000_000)
    for run in registry.runs.recent(limit=1_000_000):
        if run.job is not None:
            registry.jobs.events(run.job.id)


def is_ftpipe_job(job: Job, provider: Provider) -> bool:
    """Whether ftpipe created a job, as far as the endpoint's metadata tells."""
    return not provider.profile.metadata_stored or RUN_ID_KEY in job.metadata
