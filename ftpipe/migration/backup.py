"""Back up tuned models from an endpoint: jobs, events, checkpoints, files and models. Nothing there is changed."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ftpipe.errors import (
    AuthenticationError,
    InvalidResponseError,
    LocalStateError,
    NotFoundError,
    ProviderError,
    RequestRefusedError,
)
from ftpipe.formatting import format_bytes, sanitize_line
from ftpipe.migration.backup_folder import BackupFolder
from ftpipe.migration.backup_manifest import BackupEntry, Kind, MissingItem, content_suffix, safe_name
from ftpipe.migration.inventory import is_tuned, parent_of
from ftpipe.providers.account import AccountReader, DownloadedFile
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import ID
from ftpipe.records import Job, Model

MAX_FILE_BYTES = 16 * 1024**3
"""No content is larger. Source: OpenAI API description, createUpload (at most 8 GB), 2026-08-21."""
MAX_GROWTH, MAX_MORE_BYTES = 2, 1 << 20
"""A content has at most so many times the announced bytes, and so many more: result files come in base64."""
SINGLE_REFUSALS = (NotFoundError, AuthenticationError, RequestRefusedError, InvalidResponseError)
"""Errors about one object; after others, such as a lost connection, a backup stops and can be continued."""
MAX_ID_CHARACTERS = 300
MAX_DECODED_BYTES = 1 << 26


@dataclass(frozen=True)
class BackupResult:
    """What a backup did."""

    jobs: int
    models: int
    files: int
    """Contents of files that are in the backup."""
    bytes: int
    """Of everything that is in the backup."""
    read: int
    """Objects that were read from the endpoint now."""
    kept: int
    """Objects that were complete before."""
    damaged: tuple[str, ...] = ()
    """Paths that were damaged or gone, and were read again."""
    unfinished: tuple[str, ...] = ()
    """Jobs that have not ended, which the next backup reads again."""
    missing: tuple[MissingItem, ...] = ()


@dataclass(frozen=True)
class BackupObserver:
    """Is called with the progress of a backup."""

    on_status: Callable[[str], None] = lambda _text: None
    on_progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None
    """With ``check`` (in bytes), ``jobs`` or ``files``, and how much of it is done."""


@dataclass
class Selection:
    """What is backed up."""

    job_ids: list[str]
    model_names: list[str] = field(default_factory=list)
    """Tuned models whose job is not known."""


class Backup:
    """Saves jobs, and everything that they name, in a folder.

    Args:
        provider: The endpoint.
        folder: Where to.
        registered: Job id → what this machine's registry knows about its model, with its aliases.
        observer: Is called with the progress.
    """

    def __init__(
        self,
        provider: Provider,
        folder: BackupFolder,
        *,
        registered: Mapping[str, Model] | None = None,
        observer: BackupObserver | None = None,
    ) -> None:
        self._account: AccountReader = provider.account
        self._folder = folder
        self._registered = registered or {}
        self._observer = observer or BackupObserver()
        self._read: list[str] = []
        self._kept = 0

    def run(self, selection: Selection) -> BackupResult:
        """Read what is not in the folder yet, and check all of it.

        Raises:
            ProviderError: The endpoint cannot be reached; the same call goes on from there later.
            LocalStateError: The folder cannot be written, or the disk does not keep what is written.
            LockedError: Another process writes into the folder.
        """
        folder = self._folder
        with folder.lock():
            progress = self._observer.on_progress
            problems = folder.check(folder.entries.values(), partial(progress, "check"))
            for path, problem in problems.items():
                self._observer.on_status(f"{path} {problem}; it is read again")
                folder.drop(path)
            jobs = []
            for done, job_id in enumerate(selection.job_ids, start=1):
                jobs += [job] if (job := self._save_job(job_id)) else []
                progress("jobs", done, len(selection.job_ids))
            for job in jobs:
                if job.fine_tuned_model:
                    self._save_model(job)
            for name in selection.model_names:
                self._save_model_without_job(name)
            file_ids = list(dict.fromkeys(file_id for job in jobs for file_id in self._files_of(job)))
            self._require_space(file_ids)
            for done, file_id in enumerate(file_ids, start=1):
                self._save_content(file_id)
                progress("files", done, len(file_ids))
            self._check_what_was_read()
            folder.complete()
        return self._result(jobs, tuple(problems))

    def _result(self, jobs: list[Job], damaged: tuple[str, ...]) -> BackupResult:
        entries = self._folder.entries.values()
        return BackupResult(
            jobs=sum(one.kind == "job" for one in entries),
            models=sum(one.kind == "model" for one in entries),
            files=sum(one.kind == "content" for one in entries),
            bytes=sum(one.bytes for one in entries),
            read=len(self._read),
            kept=self._kept,
            damaged=damaged,
            unfinished=tuple(job.id for job in jobs if not _is_final(job)),
            missing=tuple(item for _, item in sorted(self._folder.missing.items())),
        )

    def _save_job(self, job_id: str) -> Job | None:
        """Save a job with its events and checkpoints; ``None`` if the endpoint does not give it."""
        base = f"jobs/{safe_name(job_id)}"
        path = f"{base}/job.json"
        if self._needs("job", job_id, path):
            description = self._get("job", job_id, partial(self._account.job, job_id))
            if description is not None:
                self._save_description(path, job_id, description)
        if path not in self._folder.entries:
            return None
        record = self._folder.read_json(self._folder.entries[path]).get("record")
        if record is None:
            return None
        job = Job.model_validate(record)
        self._save_list("events", job, f"{base}/events.json", self._account.events)
        self._save_list("checkpoints", job, f"{base}/checkpoints.json", self._account.checkpoints)
        return job

    def _save_description(self, path: str, job_id: str, description: dict[str, Any]) -> None:
        entry = BackupEntry(path=path, kind="job", id=job_id, is_final=False)
        try:
            job = self._account.as_job(description)
            if job.id != job_id:
                raise InvalidResponseError(f"the endpoint answered with the job {job.id}")
        except InvalidResponseError as exc:
            self._save(entry, {"record": None, "object": description})
            self._note("job", job_id, f"saved as the endpoint describes it, but {exc.message}", exc.code)
            return
        final = entry.model_copy(update={"is_final": _is_final(job)})
        self._save(final, {"record": job.model_dump(mode="json"), "object": description})

    def _save_list(self, kind: Kind, job: Job, path: str, read: Callable[[str], list[dict[str, Any]]]) -> None:
        if self._needs(kind, job.id, path):
            items = self._get(kind, job.id, partial(read, job.id))
            if items is not None:
                entry = BackupEntry(path=path, kind=kind, id=job.id, is_final=_is_final(job))
                self._save(entry, {kind: items})

    def _files_of(self, job: Job) -> tuple[str, ...]:
        if not job.training_file:
            self._note("content", f"{job.id} training_file", "the job names no training file", "not_named")
        return job.file_ids

    def _require_space(self, file_ids: Iterable[str]) -> None:
        """Save what the endpoint says about the files, and stop if the disk cannot hold their contents."""
        needed = 0
        for file_id in file_ids:
            path = f"files/{safe_name(file_id)}/object.json"
            if self._needs("content", file_id, path):
                description = self._get("content", file_id, partial(self._account.file, file_id))
                if description is None:
                    continue
                self._save(BackupEntry(path=path, kind="object", id=file_id), {"object": description})
            if path in self._folder.entries and self._folder.content(file_id) is None:
                needed += _announced_bytes(self._description(file_id)) or 0
        free = shutil.disk_usage(self._folder.path).free
        if needed > free:
            raise LocalStateError(
                f"the files have {format_bytes(needed)}, and {self._folder.path} has room for {format_bytes(free)}",
                "name a folder on a larger disk, or back up single models",
            )

    def _description(self, file_id: str) -> dict[str, Any]:
        document = self._folder.read_json(self._folder.entries[f"files/{safe_name(file_id)}/object.json"])
        description = document.get("object")
        return description if isinstance(description, dict) else {}

    def _save_content(self, file_id: str) -> None:
        if self._folder.content(file_id) is not None:
            self._kept += 1
            return
        if self._folder.is_missing("content", file_id[:MAX_ID_CHARACTERS]):
            return
        description = self._description(file_id)
        announced, filename = _announced_bytes(description), str(description.get("filename") or "")
        limit = MAX_FILE_BYTES if announced is None else min(announced * MAX_GROWTH + MAX_MORE_BYTES, MAX_FILE_BYTES)

        download = partial(self._account.download, file_id, self._folder.partial, max_bytes=limit)
        content = self._get("content", file_id, download)
        if content is None:
            return
        if announced not in (None, content.bytes, _decoded_bytes(content)):
            # a second answer tells a content that was cut off from one whose size is given wrongly
            again = self._get("content", file_id, download)
            if again is None or again.sha256 != content.sha256:
                self._note("content", file_id, "the endpoint sends another content each time", "invalid_response")
                return
        path = f"files/{safe_name(file_id)}/content{content_suffix(filename)}"
        entry = BackupEntry(
            path=path,
            sha256=content.sha256,
            bytes=content.bytes,
            kind="content",
            id=file_id,
            filename=filename,
            created_at=_int(description.get("created_at")),
            announced_bytes=None if announced == content.bytes else announced,
        )
        self._folder.save_download(entry, content.path)
        self._read.append(path)

    def _save_model(self, job: Job) -> None:
        name = job.fine_tuned_model or ""
        registered = self._registered.get(job.id)
        document = {
            "model": name,
            "job": job.id,
            "base": job.model,
            "method": job.method.value,
            "hyperparameters": job.resolved.model_dump(mode="json", exclude_none=True) if job.resolved else None,
            "seed": job.seed,
            "registered": registered.model_dump(mode="json") if registered else None,
        }
        self._save_model_document(name, document)

    def _save_model_without_job(self, name: str) -> None:
        self._save_model_document(name, {"model": name, "job": None})
        self._note("job", f"{name} job", "no job that the key can see has trained this model", "not_named")

    def _save_model_document(self, name: str, document: dict[str, Any]) -> None:
        path = f"models/{safe_name(name)}.json"
        if self._needs("model", name, path):
            description = self._get("model", name, partial(self._account.model, name))
            item = None if description is not None else self._folder.missing["model", name[:MAX_ID_CHARACTERS]]
            entry = BackupEntry(path=path, kind="model", id=name, is_final=description is not None)
            self._save(entry, {**document, "object": description})
            if item is not None:
                self._folder.note_missing(item)  # its job's part is saved, and the endpoint's is missing

    def _needs(self, kind: Kind, remote_id: str, path: str) -> bool:
        """Whether an object has to be read now."""
        if self._folder.is_missing(kind, remote_id[:MAX_ID_CHARACTERS]):
            return False
        if self._folder.needs(path):
            return True
        self._kept += 1
        return False

    def _get(self, kind: Kind, remote_id: str, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - the value of ``read``
        """Read an object; ``None``, and a line in the manifest, if the endpoint does not give this one."""
        if not ID.fullmatch(remote_id) or ".." in remote_id:
            self._note(kind, remote_id, "it is not an id", "invalid_response")
            return None
        try:
            return read()
        except SINGLE_REFUSALS as exc:
            self._note(kind, remote_id, exc.message, exc.code)
        except ProviderError as exc:
            if type(exc) is not ProviderError:
                raise
            self._note(kind, remote_id, exc.message, exc.code)  # this object makes the endpoint fail
        return None

    def _note(self, kind: Kind, remote_id: str, reason: str, code: str) -> None:
        if not self._folder.is_missing(kind, remote_id[:MAX_ID_CHARACTERS]):
            item = MissingItem(
                kind=kind, id=remote_id[:MAX_ID_CHARACTERS], reason=sanitize_line(reason, 500), code=code
            )
            self._folder.note_missing(item)

    def _save(self, entry: BackupEntry, document: dict[str, Any]) -> None:
        self._folder.save_json(entry, document)
        self._read.append(entry.path)

    def _check_what_was_read(self) -> None:
        problems = self._folder.check([self._folder.entries[path] for path in self._read])
        if problems:
            path, problem = next(iter(problems.items()))
            raise LocalStateError(
                f"{self._folder.path / path} was written and {problem}",
                "check the disk, then run the same command again",
            )


def select_all(account: AccountReader) -> Selection:
    """All jobs of an account, and the tuned models that no job of it has trained."""
    jobs = account.jobs()
    ids = [job["id"] for job in jobs if isinstance(job.get("id"), str) and job["id"]]
    trained = {job.get("fine_tuned_model") for job in jobs}
    try:
        names = [model["id"] for model in account.models() if isinstance(model.get("id"), str)]
    except (AuthenticationError, RequestRefusedError, NotFoundError):
        names = []  # a key for fine-tuning alone may not list models
    tuned = [name for name in names if is_tuned(name) and parent_of(name) is None]
    return Selection(list(dict.fromkeys(ids)), [name for name in dict.fromkeys(tuned) if name not in trained])


def select_model(account: AccountReader, name: str) -> Selection:
    """The job of a model, checkpoint or job that the registry does not know.

    Raises:
        NotFoundError: The endpoint has neither a job nor a model of that name.
    """
    for job in account.jobs():
        trained = job.get("fine_tuned_model")
        if name == job.get("id") or (trained and trained in (name, parent_of(name))):
            return Selection([str(job["id"])])
    account.model(name)
    return Selection([], [name])


def _is_final(job: Job) -> bool:
    return job.is_finished or job.status == "succeeded"


def _announced_bytes(description: Mapping[str, Any]) -> int | None:
    """The size that the endpoint gives; ``None`` if it gives none or an impossible one."""
    size = description.get("bytes")
    return size if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MAX_FILE_BYTES else None


def _decoded_bytes(content: DownloadedFile) -> int | None:
    """The size of a content without its base64, in which result files come; ``None`` if it is not base64."""
    if content.bytes > MAX_DECODED_BYTES:
        return None
    try:
        return len(base64.b64decode(content.path.read_bytes(), validate=True))
    except (ValueError, OSError):
        return None


def _int(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
