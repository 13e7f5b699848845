"""A fake OpenAI client: the SDK's own types over dictionaries in memory, with faults that a test scripts.

It has the part of ``openai.OpenAI`` that ftpipe calls. ``calls`` counts the calls; ``stored_files`` and ``stored_jobs``
hold what exists at its "server", so that a test can count paid jobs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
import openai
from openai._legacy_response import HttpxBinaryResponseContent
from openai.pagination import SyncCursorPage
from openai.types import FileDeleted, FileObject, Model, ModelDeleted, Upload
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart

from ftpipe.providers.jobs import PROBE_FILE

NOW = 1_795_000_000
"""UTC Unix seconds: the first time of creation at this server."""


def status_error(
    status: int, *, code: str | None = None, message: str = "no", headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """The error that the SDK raises for a response with this status."""
    kinds: dict[int, type[openai.APIStatusError]] = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
    }
    kind = kinds.get(status, openai.InternalServerError if status >= 500 else openai.APIStatusError)
    request = httpx2.Request("POST", "http://127.0.0.1/v1")
    response = httpx2.Response(status, request=request, headers=headers or {})
    return kind(
        message,
        response=response,
        body={"message": message, "code": code, "type": "invalid_request_error", "param": None},
    )


def lost_response() -> openai.APIConnectionError:
    """The error that the SDK raises if the connection breaks after the request was sent."""
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1/v1"))
    error.__cause__ = httpx2.ReadError("connection reset by peer")
    return error


def never_sent() -> openai.APIConnectionError:
    """The error that the SDK raises if no server listens."""
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1/v1"))
    error.__cause__ = httpx2.ConnectError("connection refused")
    return error


@dataclass
class Fault:
    """What happens to one call: an error or a broken response, after the call was executed or instead of it."""

    error: Exception | None = None
    response: object = None
    executed: bool = False


@dataclass
class FakeOpenAI:
    """The client, and the server behind it."""

    statuses: list[str] = field(default_factory=lambda: ["queued", "running", "succeeded"])
    """A job's status each time it is read; the last one is repeated."""
    keeps_metadata: bool = True
    lists_after: int = 0
    """In how many lists a new job is missing."""
    stored_files: dict[str, FileObject] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    stored_jobs: dict[str, FineTuningJob] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The arguments of each create call."""
    uploaded_parts: dict[str, bytes] = field(default_factory=dict)
    """Parts by their id."""
    uploads_by_id: dict[str, dict[str, Any]] = field(default_factory=dict)
    job_reads: Counter[str] = field(default_factory=Counter)
    """How often each job was read."""
    job_listings: Counter[str] = field(default_factory=Counter)
    """How often a list was read since each job exists."""

    def __post_init__(self) -> None:
        self._faults: dict[str, list[Fault | None]] = {}
        self.part_lock = threading.Lock()
        """Parts come from several threads and are numbered in order."""
        self.files = _Files(self)
        self.uploads = _Uploads(self)
        self.fine_tuning = _FineTuning(self)
        self.models = _Models(self)
        self.chat = _Chat(self)

    def fail_next(self, name: str, *faults: Fault | None) -> None:
        """Script the next calls of that name, for example ``jobs.create``; for ``None`` the call succeeds."""
        self._faults.setdefault(name, []).extend(faults)

    def clear_faults(self) -> None:
        """Let all calls succeed from now on."""
        self._faults.clear()

    def serve(self, name: str, execute: Callable[[], Any]) -> Any:
        """Serve a call: count it, execute it, and apply the scripted fault."""
        self.calls[name] += 1
        script = self._faults.get(name, [])
        fault = script.pop(0) if script else None
        if fault is None:
            return execute()
        if fault.executed:
            execute()
        if fault.error is not None:
            raise fault.error
        return fault.response

    def as_client(self) -> openai.OpenAI:
        """This object, as the type that ftpipe is written against."""
        return cast("openai.OpenAI", self)

    def delete(self, path: str, *, cast_to: object) -> None:  # as the client calls it
        """``DELETE /fine_tuning/jobs/ID`` of ftpipe's own server."""
        self.serve("jobs.delete", lambda: self.stored_jobs.pop(path.rpartition("/")[2]))

    def seed_job(self, **fields: Any) -> FineTuningJob:
        """Add a job at the server without a call."""
        number = len(self.stored_jobs) + 1
        values: dict[str, Any] = {
            "id": f"ftjob-{number}",
            "object": "fine_tuning.job",
            "created_at": NOW + number,
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": {"n_epochs": "auto"},
            "model": "gpt-4.1-mini-2025-04-14",
            "organization_id": "org-test",
            "result_files": [],
            "seed": 7,
            "status": "validating_files",
            "trained_tokens": None,
            "training_file": "file-1",
            "validation_file": None,
            "metadata": {},
        }
        job = FineTuningJob.model_validate({**values, **fields})
        self.stored_jobs[job.id] = job
        return job


class _Endpoint:
    def __init__(self, server: FakeOpenAI) -> None:
        self.server = server


class _Files(_Endpoint):
    def create(self, *, file: tuple[str, Any, str], purpose: str) -> FileObject:
        def execute() -> FileObject:
            data = b"".join(iter(lambda: file[1].read(1024), b""))
            return self._store(file[0], data, purpose)

        return cast(FileObject, self.server.serve("files.create", execute))

    def _store(self, name: str, data: bytes, purpose: str) -> FileObject:
        number = len(self.server.stored_files) + 1
        stored = FileObject(
            id=f"file-{number}",
            object="file",
            bytes=len(data),
            created_at=NOW + number,
            filename=name,
            purpose=cast(Any, purpose),
            status="processed",
        )
        self.server.stored_files[stored.id] = stored
        self.server.contents[stored.id] = data
        return stored

    def list(self, *, order: str, limit: int, purpose: str | None = None) -> SyncCursorPage[FileObject]:
        def execute() -> SyncCursorPage[FileObject]:
            files = [file for file in self.server.stored_files.values() if purpose in (None, file.purpose)]
            return SyncCursorPage[FileObject](data=files[::-1] if order == "desc" else files, has_more=False)

        return cast(SyncCursorPage[FileObject], self.server.serve("files.list", execute))

    def retrieve(self, file_id: str) -> FileObject:
        return cast(FileObject, self.server.serve("files.retrieve", lambda: self._get(file_id)))

    def _get(self, file_id: str) -> FileObject:
        if file_id not in self.server.stored_files:
            raise status_error(404, message=f"No such File object: {file_id}")
        return self.server.stored_files[file_id]

    def content(self, file_id: str) -> HttpxBinaryResponseContent:
        def execute() -> HttpxBinaryResponseContent:
            self._get(file_id)
            return HttpxBinaryResponseContent(httpx2.Response(200, content=self.server.contents[file_id]))

        return cast(HttpxBinaryResponseContent, self.server.serve("files.content", execute))

    def delete(self, file_id: str) -> FileDeleted:
        def execute() -> FileDeleted:
            self._get(file_id)
            del self.server.stored_files[file_id]
            return FileDeleted(id=file_id, deleted=True, object="file")

        return cast(FileDeleted, self.server.serve("files.delete", execute))


class _Uploads(_Endpoint):
    def __init__(self, server: FakeOpenAI) -> None:
        super().__init__(server)
        self.parts = _Parts(server)

    def create(self, *, filename: str, bytes: int, purpose: str, mime_type: str) -> Upload:
        def execute() -> Upload:
            upload_id = f"upload-{len(self.server.uploads_by_id) + 1}"
            self.server.uploads_by_id[upload_id] = {"filename": filename, "bytes": bytes}
            return self._upload(upload_id, "pending")

        return cast(Upload, self.server.serve("uploads.create", execute))

    def complete(self, upload_id: str, *, part_ids: Iterable[str], md5: str) -> Upload:
        def execute() -> Upload:
            data = b"".join(self.server.uploaded_parts[part_id] for part_id in part_ids)
            if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
                raise status_error(400, message="md5 does not match")
            file = self.server.files._store(self.server.uploads_by_id[upload_id]["filename"], data, "fine-tune")
            return self._upload(upload_id, "completed", file)

        return cast(Upload, self.server.serve("uploads.complete", execute))

    def cancel(self, upload_id: str) -> Upload:
        return cast(Upload, self.server.serve("uploads.cancel", lambda: self._upload(upload_id, "cancelled")))

    def _upload(self, upload_id: str, status: str, file: FileObject | None = None) -> Upload:
        upload = self.server.uploads_by_id[upload_id]
        return Upload(
            id=upload_id,
            bytes=upload["bytes"],
            created_at=NOW,
            expires_at=NOW + 3600,
            filename=upload["filename"],
            object="upload",
            purpose="fine-tune",
            status=cast(Any, status),
            file=file,
        )


class _Parts(_Endpoint):
    def create(self, upload_id: str, *, data: tuple[str, bytes, str]) -> UploadPart:
        def execute() -> UploadPart:
            part_id = f"part-{len(self.server.uploaded_parts) + 1}"
            self.server.uploaded_parts[part_id] = data[1]
            return UploadPart(id=part_id, created_at=NOW, object="upload.part", upload_id=upload_id)

        with self.server.part_lock:
            return cast(UploadPart, self.server.serve("parts.create", execute))


class _FineTuning:
    def __init__(self, server: FakeOpenAI) -> None:
        self.jobs = _Jobs(server)


class _Jobs(_Endpoint):
    def __init__(self, server: FakeOpenAI) -> None:
        super().__init__(server)
        self.checkpoints = _Checkpoints(server)

    def create(self, *, extra_headers: dict[str, str] | None = None, **body: Any) -> FineTuningJob:
        if body["training_file"] == PROBE_FILE:
            self.server.calls["jobs.probe"] += 1
            raise status_error(400, message=f"invalid training_file: {PROBE_FILE} does not exist")
        self.server.bodies.append(body)

        def execute() -> FineTuningJob:
            hyperparameters = body.get("hyperparameters") or (body.get("method") or {}).get("supervised", {}).get(
                "hyperparameters", {}
            )
            return self.server.seed_job(
                model=body["model"],
                training_file=body["training_file"],
                validation_file=body.get("validation_file"),
                hyperparameters={
                    "n_epochs": hyperparameters.get("n_epochs", 3),
                    "batch_size": 1,
                    "learning_rate_multiplier": 1.8,
                },
                method=body.get("method"),
                seed=body.get("seed", 7),
                metadata=body.get("metadata") if self.server.keeps_metadata else None,
            )

        return cast(FineTuningJob, self.server.serve("jobs.create", execute))

    def retrieve(self, job_id: str) -> FineTuningJob:
        return cast(FineTuningJob, self.server.serve("jobs.retrieve", lambda: self._read(job_id)))

    def _read(self, job_id: str) -> FineTuningJob:
        if job_id not in self.server.stored_jobs:
            raise status_error(404, message=f"Could not find fine tune: {job_id}")
        job = self.server.stored_jobs[job_id]
        statuses = self.server.statuses
        status = statuses[min(self.server.job_reads[job_id], len(statuses) - 1)]
        self.server.job_reads[job_id] += 1
        update: dict[str, Any] = {}
        if status == "succeeded":
            name = f"ft:{job.model}:org-test::{job_id.removeprefix('ftjob-')}"
            update |= {"fine_tuned_model": name, "trained_tokens": 1200, "finished_at": job.created_at + 60}
        elif status == "failed":
            update["error"] = {
                "code": "invalid_training_file",
                "message": "line 3 has no role",
                "param": "training_file",
            }
        changed = FineTuningJob.model_validate({**job.model_dump(), **update, "status": "queued"})
        # the client's types do not list every status that a job can have
        self.server.stored_jobs[job_id] = changed.model_copy(update={"status": status})
        return self.server.stored_jobs[job_id]

    def list(self, *, limit: int, metadata: dict[str, str] | None = None) -> SyncCursorPage[FineTuningJob]:
        def execute() -> SyncCursorPage[FineTuningJob]:
            jobs = []
            for job in reversed(self.server.stored_jobs.values()):
                self.server.job_listings[job.id] += 1
                matches = all((job.metadata or {}).get(k) == v for k, v in (metadata or {}).items())
                if matches and self.server.job_listings[job.id] > self.server.lists_after:
                    jobs.append(job)
            return SyncCursorPage[FineTuningJob](data=jobs[:limit], has_more=False)

        return cast(SyncCursorPage[FineTuningJob], self.server.serve("jobs.list", execute))

    def cancel(self, job_id: str) -> FineTuningJob:
        def execute() -> FineTuningJob:
            job = self.server.stored_jobs[job_id]
            self.server.statuses = ["cancelled"]
            return FineTuningJob.model_validate({**job.model_dump(), "status": "cancelled"})

        return cast(FineTuningJob, self.server.serve("jobs.cancel", execute))

    def pause(self, job_id: str) -> FineTuningJob:
        return self._set_status(job_id, "paused", "jobs.pause")

    def resume(self, job_id: str) -> FineTuningJob:
        return self._set_status(job_id, "running", "jobs.resume")

    def _set_status(self, job_id: str, status: str, call: str) -> FineTuningJob:
        def execute() -> FineTuningJob:
            self.server.statuses = [status]
            return self.server.stored_jobs[job_id].model_copy(update={"status": status})

        return cast(FineTuningJob, self.server.serve(call, execute))

    def list_events(self, job_id: str, *, limit: int) -> SyncCursorPage[FineTuningJobEvent]:
        def execute() -> SyncCursorPage[FineTuningJobEvent]:
            reads = self.server.job_reads[job_id]
            events = [self._event(job_id, step) for step in range(1, reads + 1)]
            return SyncCursorPage[FineTuningJobEvent](data=events[::-1], has_more=False)

        return cast(SyncCursorPage[FineTuningJobEvent], self.server.serve("jobs.list_events", execute))

    def _event(self, job_id: str, step: int) -> FineTuningJobEvent:
        return FineTuningJobEvent(
            id=f"ftevent-{job_id}-{step}",
            created_at=NOW + step,
            level="info",
            message=f"Step {step}/3: training loss={1 / step:.2f}",
            object="fine_tuning.job.event",
            type="metrics",
            data={"step": step, "total_steps": 3, "train_loss": 1 / step},
        )


class _Checkpoints(_Endpoint):
    def list(self, job_id: str, *, limit: int) -> SyncCursorPage[FineTuningJobCheckpoint]:
        def execute() -> SyncCursorPage[FineTuningJobCheckpoint]:
            items = [
                FineTuningJobCheckpoint.model_validate(
                    {
                        "id": f"ftckpt-{step}",
                        "created_at": NOW + step,
                        "fine_tuned_model_checkpoint": f"ft:m:org-test::1:ckpt-step-{step}",
                        "fine_tuning_job_id": job_id,
                        "metrics": {"step": step, "train_loss": 1 / step},
                        "object": "fine_tuning.job.checkpoint",
                        "step_number": step,
                    }
                )
                for step in (3, 2)
            ]
            return SyncCursorPage[FineTuningJobCheckpoint](data=items, has_more=False)

        return cast(SyncCursorPage[FineTuningJobCheckpoint], self.server.serve("checkpoints.list", execute))


class _Models(_Endpoint):
    def list(self) -> SyncCursorPage[Model]:
        names = ["gpt-4.1-mini-2025-04-14", "gpt-4o-mini-2024-07-18"]
        return SyncCursorPage[Model](data=[self._model(name) for name in names], has_more=False)

    def retrieve(self, model: str) -> Model:
        return cast(Model, self.server.serve("models.retrieve", lambda: self._model(model)))

    def delete(self, model: str) -> ModelDeleted:
        return cast(
            ModelDeleted,
            self.server.serve("models.delete", lambda: ModelDeleted(id=model, deleted=True, object="model")),
        )

    def _model(self, name: str) -> Model:
        return Model.model_validate(
            {"id": name, "created": NOW, "object": "model", "owned_by": "openai", "shutdown_date": "2027-01-14"}
        )


class _Chat:
    def __init__(self, server: FakeOpenAI) -> None:
        self.completions = _Completions(server)


class _Completions(_Endpoint):
    def create(self, *, model: str, messages: list[dict[str, Any]], stream: bool = False, **_sampling: Any) -> Any:
        def execute() -> Any:
            text = f"{model} received {messages[-1]['content']}"
            return self._chunks(text) if stream else self._completion(text)

        return self.server.serve("chat", execute)

    def _completion(self, text: str) -> ChatCompletion:
        return ChatCompletion.model_validate(
            {
                "id": "chatcmpl-1",
                "created": NOW,
                "model": "m",
                "object": "chat.completion",
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
            }
        )

    def _chunks(self, text: str) -> Iterator[ChatCompletionChunk]:
        for word in text.split(" "):
            yield ChatCompletionChunk.model_validate(
                {
                    "id": "chatcmpl-1",
                    "created": NOW,
                    "model": "m",
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}],
                }
            )
