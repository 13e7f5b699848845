"""A real OpenAI-like server whose every response can be scripted, and whose state can be counted.

::

    with FaultEndpoint() as endpoint:
        endpoint.script("POST /fine_tuning/jobs", LOST)          # executes the call, then drops the connection
        ...
        assert len(endpoint.jobs) == 1                           # what was paid
"""

from __future__ import annotations

import hashlib
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.fakes.scripted_server import (
    RejectedRequest,
    Request,
    ScriptedServer,
    ServerState,
)

MAX_STORED_BYTES = 1 << 20
"""Files up to this size can be downloaded; of larger ones only size and digest are stored."""


@dataclass
class EndpointState(ServerState):
    """Everything that exists at the endpoint, and its quirks."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The body of each create call."""
    chats: list[dict[str, Any]] = field(default_factory=list)
    """The body of each chat."""
    statuses: tuple[str, ...] = ("validating_files", "queued", "running", "succeeded")
    """A job's status each time it is read; the last one is repeated."""
    job_error: dict[str, Any] | None = None
    file_status: str = "processed"
    file_details: str | None = None
    keeps_metadata: bool = True
    filters_metadata: bool = True
    honors_keys: bool = False
    """Whether the Idempotency-Key header is honored, as by ftpipe's own server."""
    oldest_first: bool = False
    list_lag: float = 0.0
    """Seconds until a new job is listed."""
    upload_life: float = 3600.0
    announces_expiry: bool = True
    hashes_parts: bool = True


ROUTES = {
    "POST /files": "add_file",
    "GET /files": "list_files",
    "GET /files/{id}": "get_file",
    "GET /files/{id}/content": "file_content",
    "DELETE /files/{id}": "delete_file",
    "POST /uploads": "start_upload",
    "POST /uploads/{id}/parts": "add_part",
    "POST /uploads/{id}/complete": "complete_upload",
    "POST /uploads/{id}/cancel": "cancel_upload",
    "POST /fine_tuning/jobs": "create_job",
    "GET /fine_tuning/jobs": "list_jobs",
    "GET /fine_tuning/jobs/{id}": "get_job",
    "POST /fine_tuning/jobs/{id}/cancel": "cancel_job",
    "GET /fine_tuning/jobs/{id}/events": "list_events",
    "GET /fine_tuning/jobs/{id}/checkpoints": "list_checkpoints",
    "POST /chat/completions": "complete_chat",
    "GET /models": "list_models",
    "GET /models/{id}": "get_model",
}
"""Route → name of the method that executes it."""


class FaultEndpoint(ScriptedServer, EndpointState):
    """The server; a context manager that runs it in a thread on loopback."""

    prefix = "/v1"
    routes: ClassVar[dict[str, str]] = ROUTES

    def find_route(self, method: str, path: str) -> tuple[str, list[str]]:
        """``POST /uploads/{id}/parts`` and its ids."""
        return route_of(method, path)

    def seed_job(self, **fields: Any) -> dict[str, Any]:
        """Add a job without a call."""
        job: dict[str, Any] = {**self._job(model="m", training_file="file-0", metadata={}), **fields}
        self.jobs[job["id"]] = job
        return job

    def execute(self, request: Request) -> Any:
        """Execute a call; returns its real response."""
        name = self.routes.get(request.route)
        if name is None:
            raise RejectedRequest(404, f"no route {request.route}")
        with self.lock:
            method = getattr(self, name)
            return method(*request.ids, query=request.query, fields=request.fields, headers=request.headers)

    def add_file(self, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /files``."""
        filename, data = fields["file"]
        return self.store(filename, data)

    def store(self, filename: str, data: bytes) -> dict[str, Any]:
        """Store a file."""
        file = self._file(filename, len(data), hashlib.sha256(data).hexdigest())
        if len(data) <= MAX_STORED_BYTES:
            self.contents[file["id"]] = data
        return file

    def _file(self, filename: str, size: int, digest: str) -> dict[str, Any]:
        file: dict[str, Any] = {
            "id": f"file-{len(self.files) + 1:04}",
            "object": "file",
            "bytes": size,
            "created_at": self.now(),
            "filename": filename,
            "purpose": "fine-tune",
            "status": self.file_status,
            "status_details": self.file_details,
            "sha256": digest,
        }
        self.files[file["id"]] = file
        return file

    def list_files(self, **_: Any) -> dict[str, Any]:
        """``GET /files``."""
        return page(list(reversed(self.files.values())))

    def get_file(self, file_id: str, **_: Any) -> dict[str, Any]:
        """``GET /files/{id}``."""
        if file_id not in self.files:
            raise RejectedRequest(404, f"No such File object: {file_id}")
        return {**self.files[file_id], "status": self.file_status, "status_details": self.file_details}

    def file_content(self, file_id: str, **_: Any) -> bytes:
        """``GET /files/{id}/content``."""
        if file_id not in self.contents:
            raise RejectedRequest(404, f"No such File object: {file_id}")
        return self.contents[file_id]

    def delete_file(self, file_id: str, **_: Any) -> dict[str, Any]:
        """``DELETE /files/{id}``."""
        self.get_file(file_id)
        del self.files[file_id]
        return {"id": file_id, "object": "file", "deleted": True}

    def start_upload(self, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /uploads``."""
        upload = {
            "id": f"upload_{len(self.uploads) + 1:04}",
            "object": "upload",
            "bytes": fields["bytes"],
            "created_at": self.now(),
            "filename": fields["filename"],
            "purpose": fields["purpose"],
            "status": "pending",
            "expires_at": int(self.now() + (self.upload_life if self.announces_expiry else 3600)),
            "ends": time.time() + self.upload_life,
        }
        self.uploads[upload["id"]] = upload
        return upload

    def _open_upload(self, upload_id: str) -> dict[str, Any]:
        upload = self.uploads.get(upload_id)
        if upload is None or upload["status"] != "pending" or upload["ends"] < time.time():
            raise RejectedRequest(400, f"Upload {upload_id} is expired or not pending.")
        return upload

    def add_part(self, upload_id: str, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /uploads/{id}/parts``."""
        self._open_upload(upload_id)
        data = fields["data"][1]
        part: dict[str, Any] = {"id": f"part_{len(self.parts) + 1:06}", "object": "upload.part", "upload_id": upload_id}
        part |= {"created_at": self.now(), "size": len(data)}
        if self.hashes_parts:
            part["data"] = data if len(data) <= MAX_STORED_BYTES else b""
        self.parts[part["id"]] = part
        return {name: value for name, value in part.items() if name not in ("data", "size")}

    def complete_upload(self, upload_id: str, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /uploads/{id}/complete``."""
        upload = self._open_upload(upload_id)
        parts = [self.parts[part_id] for part_id in fields["part_ids"]]
        data = b"".join(part.get("data", b"") for part in parts)
        size = sum(part["size"] for part in parts)
        if size != upload["bytes"]:
            raise RejectedRequest(400, f"expected {upload['bytes']} bytes, got {size}")
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if self.hashes_parts and len(data) == size and fields.get("md5") != md5:
            raise RejectedRequest(400, "the md5 does not match")
        file = self._file(upload["filename"], size, hashlib.sha256(data).hexdigest())
        if len(data) == size <= MAX_STORED_BYTES:
            self.contents[file["id"]] = data
        upload |= {"status": "completed", "file": file}
        return upload

    def cancel_upload(self, upload_id: str, **_: Any) -> dict[str, Any]:
        """``POST /uploads/{id}/cancel``."""
        upload = self._open_upload(upload_id)
        upload["status"] = "cancelled"
        return upload

    def create_job(self, *, fields: dict[str, Any], headers: dict[str, str], **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs``: the call that is paid."""
        self.bodies.append(fields)
        if fields["training_file"] not in self.files:
            raise RejectedRequest(400, f"invalid training_file: {fields['training_file']} does not exist")
        key = headers.get("idempotency-key", "")
        if self.honors_keys and key:
            for job in self.jobs.values():
                if job["key"] == key:
                    return job
        job = self._job(**fields)
        job["key"] = key
        self.jobs[job["id"]] = job
        return job

    def _job(self, **fields: Any) -> dict[str, Any]:
        return {
            "id": f"ftjob-{len(self.jobs) + 1:04}",
            "object": "fine_tuning.job",
            "created_at": self.now(),
            "error": {"code": None, "message": None, "param": None},
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
            "model": fields["model"],
            "organization_id": "org-test",
            "result_files": [],
            "seed": fields.get("seed", 7),
            "status": self.statuses[0],
            "trained_tokens": None,
            "training_file": fields["training_file"],
            "validation_file": fields.get("validation_file"),
            "method": fields.get("method"),
            "metadata": fields.get("metadata") if self.keeps_metadata else None,
            "user_provided_suffix": fields.get("suffix"),
            "reads": 0,
            "created": time.time(),
            "key": "",
        }

    def list_jobs(self, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs``."""
        jobs = [job for job in self.jobs.values() if time.time() - job["created"] >= self.list_lag]
        if self.filters_metadata:
            for name, value in query.items():
                if name.startswith("metadata["):
                    jobs = [job for job in jobs if (job["metadata"] or {}).get(name[9:-1]) == value]
        jobs.sort(key=lambda job: job["created_at"], reverse=not self.oldest_first)
        return page(jobs, after=query.get("after"), limit=int(query.get("limit", 20)))

    def get_job(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}``: each time the job is read, its status advances."""
        if job_id not in self.jobs:
            raise RejectedRequest(404, f"Could not find fine tune: {job_id}")
        job = self.jobs[job_id]
        job["status"] = self.statuses[min(job["reads"], len(self.statuses) - 1)]
        job["reads"] += 1
        if job["status"] == "succeeded":
            job |= {
                "fine_tuned_model": f"ft:{job['model']}:org-test::{job_id[-4:]}",
                "trained_tokens": 1200,
                "finished_at": job["finished_at"] or self.now(),
            }
        elif job["status"] in ("failed", "cancelled"):
            job |= {"error": self.job_error, "finished_at": job["finished_at"] or self.now()}
        return job

    def cancel_job(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs/{id}/cancel``."""
        self.statuses = ("cancelled",)
        return self.get_job(job_id)

    def list_events(self, job_id: str, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}/events``, newest first."""
        reads = self.jobs[job_id]["reads"] if job_id in self.jobs else 0
        events = [self._event(job_id, step) for step in range(min(reads, 8), 0, -1)]
        return page(events, after=query.get("after"), limit=int(query.get("limit", 20)))

    def _event(self, job_id: str, step: int) -> dict[str, Any]:
        return {
            "id": f"ftevent-{job_id[-4:]}-{step}",
            "object": "fine_tuning.job.event",
            "created_at": self.jobs[job_id]["created_at"] + step,
            "level": "info",
            "type": "metrics",
            "message": f"Step {step}/8: training loss={1 / step:.2f}",
            "data": {"step": step, "total_steps": 8, "train_loss": 1 / step},
        }

    def list_checkpoints(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}/checkpoints``."""
        return page([])

    def complete_chat(self, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /chat/completions``."""
        self.chats.append(fields)
        choice = {"index": 0, "message": {"role": "assistant", "content": "good day"}, "finish_reason": "stop"}
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

    def list_models(self, **_: Any) -> dict[str, Any]:
        """``GET /models``."""
        return page([{"id": "gpt-4.1-mini-2025-04-14", "object": "model", "created": 1, "owned_by": "system"}])

    def get_model(self, model_id: str, **_: Any) -> dict[str, Any]:
        """``GET /models/{id}``."""
        return {"id": model_id, "object": "model", "created": 1, "owned_by": "system"}


def page(items: list[dict[str, Any]], *, after: str | None = None, limit: int = 10_000) -> dict[str, Any]:
    """One page of a list."""
    start = next((index + 1 for index, item in enumerate(items) if item["id"] == after), 0) if after else 0
    return {"object": "list", "data": items[start : start + limit], "has_more": start + limit < len(items)}


def route_of(method: str, path: str) -> tuple[str, list[str]]:
    """``POST /uploads/{id}/parts`` and its ids."""
    parts = path.strip("/").split("/")
    ids: list[str] = []
    position = {"files": 1, "uploads": 1, "models": 1, "batches": 1, "fine_tuning": 2}.get(parts[0], 99)
    if len(parts) > position:
        if parts[0] == "models":
            parts = ["models", "/".join(parts[1:])]
        ids = [urllib.parse.unquote(parts[position])]
        parts[position] = "{id}"
    return f"{method} /{'/'.join(parts)}", ids
