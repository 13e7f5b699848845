"""Read a backup into a registry: runs, jobs, events and models with their lineage. It needs no endpoint and no key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from ftpipe.catalog.base_models import find_base
from ftpipe.dataset.identity import describe_dataset
from ftpipe.errors import FtpipeError, InvalidResponseError, LocalStateError
from ftpipe.formatting import plural, sanitize_line
from ftpipe.migration.backup_folder import ABSENT, BackupFolder
from ftpipe.migration.backup_manifest import BackupEntry, Kind, MissingItem, safe_name
from ftpipe.pipeline.adopt import SavedFiles, start_adopted
from ftpipe.providers.responses import checkpoint_of, event_of
from ftpipe.records import Checkpoint, Dataset, Event, Job, Model, Run, RunState, UploadedFile
from ftpipe.registry import Registry
from ftpipe.registry.jobs import metrics_of
from ftpipe.stages.register import model_record

R = TypeVar("R")

MAX_NAMED_FILES = 5


@dataclass(frozen=True)
class SavedJob:
    """A job of a backup, with everything that was saved of it."""

    job: Job
    events: list[Event]
    checkpoints: tuple[Checkpoint, ...]
    model: dict[str, Any]
    """The document of its model; empty if there is none."""
    unreadable: int
    """Events and checkpoints that have no id, or another form than the API promises."""


@dataclass
class RestoreResult:
    """What a restore did."""

    jobs: int = 0
    """Jobs that are new in the registry, or newer than it had them."""
    known: int = 0
    """Jobs that the registry had already."""
    models: list[Model] = field(default_factory=list)
    """All models of the backup, as the registry has them now."""
    aliases: list[str] = field(default_factory=list)
    """Aliases that were set."""
    taken_aliases: list[str] = field(default_factory=list)
    """Aliases that stand for another model in this registry."""
    missing: list[MissingItem] = field(default_factory=list)
    """What the backup does not have: the endpoint did not give it, or it is not in this copy of the folder."""
    is_interrupted: bool = False
    """Whether the backup was stopped before its end."""


class Restore:
    """Reads the jobs of a backup into a registry. Nothing is written if any file of the backup was changed.

    Args:
        folder: An opened backup.
        registry: Where to.
        on_progress: Called with the bytes that are checked and all bytes.
    """

    def __init__(
        self,
        folder: BackupFolder,
        registry: Registry,
        *,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._on_progress = on_progress
        self._absent: set[str] = set()

    def run(self) -> RestoreResult:
        """Check all files, and save what they hold; doing it again changes nothing.

        Raises:
            LocalStateError: A file was changed, or is not what its name says.
        """
        self._absent = self._check()
        result = RestoreResult(is_interrupted=self._folder.is_interrupted)
        result.missing = [item for _, item in sorted(self._folder.missing.items())]
        entries = [self._folder.entries[path] for path in sorted(self._absent)]
        result.missing += [_absent_item(entry) for entry in entries]
        jobs = [one for one in self._folder.entries.values() if one.kind == "job" and self._is_there(one)]
        saved = [one for one in map(self._read, jobs) if one is not None]
        for one in sorted(saved, key=lambda one: (one.job.created_at, one.job.id)):
            self._save(one, result)
        return result

    def _check(self) -> set[str]:
        problems = self._folder.check(self._folder.entries.values(), self._on_progress)
        changed = [f"{path} {problem}" for path, problem in problems.items() if problem != ABSENT]
        if changed:
            more = f", and {len(changed) - MAX_NAMED_FILES} more" if len(changed) > MAX_NAMED_FILES else ""
            raise LocalStateError(
                f"the backup was changed: {'; '.join(changed[:MAX_NAMED_FILES])}{more}",
                "use another copy, or run the same `ftpipe models backup` again: it replaces damaged files. "
                "Nothing was restored",
            )
        return set(problems)

    def _is_there(self, entry: BackupEntry) -> bool:
        return entry.path not in self._absent

    def _document(self, path: str) -> dict[str, Any]:
        """A document of the backup; empty if it was not saved."""
        entry = self._folder.entries.get(path)
        return self._folder.read_json(entry) if entry is not None and self._is_there(entry) else {}

    def _read(self, entry: BackupEntry) -> SavedJob | None:
        """A job of the backup; ``None`` if the endpoint described it in a form that nobody promised."""
        record, base = self._document(entry.path).get("record"), entry.path.rpartition("/")[0]
        if record is None:
            return None
        try:
            job = Job.model_validate(record)
        except ValidationError as exc:
            raise _not_a_backup(entry.path, f"is not a job ({exc.error_count()} errors)") from exc
        header = self._folder.header
        if (job.id, job.endpoint, job.provider) != (entry.id, header.endpoint, header.provider):
            raise _not_a_backup(entry.path, f"is the job {sanitize_line(job.id, 80)} of another endpoint")
        events, bad_events = _parsed(self._document(f"{base}/events.json").get("events"), event_of)
        checkpoints, bad_checkpoints = _parsed(
            self._document(f"{base}/checkpoints.json").get("checkpoints"), checkpoint_of
        )
        return SavedJob(
            job=job,
            events=sorted(events, key=lambda one: one.created_at),
            checkpoints=tuple(sorted(checkpoints, key=lambda one: one.step)),
            model=self._document(f"models/{safe_name(job.fine_tuned_model)}.json") if job.fine_tuned_model else {},
            unreadable=bad_events + bad_checkpoints,
        )

    def _save(self, saved: SavedJob, result: RestoreResult) -> None:
        job = saved.job
        run = self._registry.runs.find(job.id)
        is_known = run is not None and (run.state != RunState.CREATED or not job.is_finished)
        if run is None:
            run = self._start(job)
        elif not is_known:
            self._registry.jobs.save(job, run_id=run.id)
            run = run.model_copy(update={"job": job})
        result.known += is_known
        result.jobs += not is_known
        self._registry.jobs.save_events(job, saved.events)
        if saved.unreadable:
            reason = f"{plural(saved.unreadable, 'event or checkpoint', 'events or checkpoints')} cannot be read"
            result.missing.append(MissingItem(kind="events", id=job.id, reason=reason, code="invalid_response"))
        if run.state == RunState.CREATED and job.is_finished:
            run = self._finish(run, saved)
        if run.model is not None:
            self._restore_aliases(run.model, saved, result)
            result.models.append(self._registry.models.get(run.model.id))

    def _start(self, job: Job) -> Run:
        files = SavedFiles(*self._file(job.training_file), *self._file(job.validation_file or ""))
        for one in (files.training, files.validation):
            if one is not None:
                self._registry.files.save(one)
        return start_adopted(job, registry=self._registry, files=files, is_latest=False)

    def _file(self, file_id: str) -> tuple[UploadedFile | None, Dataset | None]:
        """A file at the endpoint, and its content in the backup; nothing if the content was not saved."""
        entry = self._folder.content(file_id) if file_id else None
        if entry is None or not self._is_there(entry):
            return None, None
        file = UploadedFile(
            id=entry.id,
            endpoint=self._folder.header.endpoint,
            sha256=entry.sha256,
            bytes=entry.bytes,
            filename=entry.filename,
            created_at=entry.created_at,
        )
        try:
            return file, describe_dataset((self._folder.path / entry.path).absolute())
        except FtpipeError:
            return file, None  # not a dataset, which the endpoint can have under any id

    def _finish(self, run: Run, saved: SavedJob) -> Run:
        job = saved.job
        if job.status != "succeeded":
            reason = job.error.message if job.error else ""
            return self._registry.runs.save(run.model_copy(update={"state": RunState.FAILED, "error": reason}))
        model = model_record(
            job,
            run=run,
            metrics=metrics_of(saved.events),
            checkpoints=saved.checkpoints,
            base_shutdown_date=self._shutdown_date(saved),
        )
        if (known := _registered(saved)) is not None:
            names = ("requested", "currency", "estimated_cost", "actual_cost", "validation_sha256")
            model = model.model_copy(update={name: getattr(known, name) for name in names})
        return self._registry.runs.register(model, run, price_row="")

    def _shutdown_date(self, saved: SavedJob) -> str | None:
        described = saved.model.get("object")
        day = described.get("shutdown_date") if isinstance(described, dict) else None
        with suppress(TypeError, ValueError):
            return dt.date.fromisoformat(day).isoformat()  # type: ignore[arg-type]  # whatever the endpoint gives is tried
        row = find_base(saved.job.model)
        date = row.shutdown.get(self._folder.header.provider) if row else None
        return date.isoformat() if date else None

    def _restore_aliases(self, model: Model, saved: SavedJob, result: RestoreResult) -> None:
        known = _registered(saved)
        aliases = self._registry.models.aliases()
        for alias in known.aliases if known else ():
            if alias not in aliases:
                self._registry.models.set_alias(alias, model.id, reason="restored from a backup")
                result.aliases.append(alias)
            elif aliases[alias] != model.id:
                result.taken_aliases.append(alias)


def _parsed(items: object, parse: Callable[[object], R]) -> tuple[list[R], int]:
    """Those items of a list that can be parsed, and the number of the others."""
    listed = items if isinstance(items, list) else []
    parsed: list[R] = []
    for item in listed:
        with suppress(InvalidResponseError, ValidationError):
            parsed.append(parse(item))
    return parsed, len(listed) - len(parsed)


def _not_a_backup(path: str, why: str) -> LocalStateError:
    return LocalStateError(f"{path} in the backup {why}", "use another copy of the backup; nothing was restored")


def _registered(saved: SavedJob) -> Model | None:
    """What the registry of the machine that made the backup knew about the model."""
    try:
        model = Model.model_validate(saved.model.get("registered"))
    except ValidationError:
        return None
    return model if (model.id, model.endpoint) == (saved.job.fine_tuned_model, saved.job.endpoint) else None


def _absent_item(entry: BackupEntry) -> MissingItem:
    kind: Kind = entry.kind
    return MissingItem(kind=kind, id=entry.id, reason=f"{entry.path} is not in this copy of the backup", code="absent")
