"""A real OpenAI-like server whose every response can be scripted, and whose state can be counted.

::

    with FaultEndpoint() as endpoint:
        endpoint.script("POST /fine_tuning/jobs", LOST)          # executes the call, then drops the connection
        ...
        assert len(endpoint.jobs) == 1                           # what was paid

A route is a method and a path whose ids are written ``{id}``. Each call takes one fault from its script; for ``None``
the call succeeds. ``always`` sets what happens when the script is empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

MAX_STORED_BYTES = 1 << 20
"""Files up to this size can be downloaded; of larger ones only size and digest are stored."""


@dataclass(frozen=True)
class Fault:
    """What happens to one call."""

    executed: bool = True
    """Whether the call has its effect."""
    status: int | None = None
    """HTTP status instead of 200; with a ``code`` the body is an error object."""
    code: str | None = None
    message: str = "scripted"
    body: bytes | None = None
    """Bytes instead of the real body."""
    headers: tuple[tuple[str, str], ...] = ()
    then: Literal["answer", "drop", "reset", "drip", "stall", "cut"] = "answer"
    """``cut`` announces more bytes than it sends."""
    delay: float = 0.0
    """Seconds to wait before the effect."""


LOST = Fault(then="drop")
"""Executes the call, then closes the connection without a response."""
RESET = Fault(then="reset")
"""Executes the call, then resets the connection."""
NEVER = Fault(executed=False, then="drop")
"""Closes the connection without executing the call."""


def refusal(status: int, code: str | None = None, message: str = "scripted", *, executed: bool = False) -> Fault:
    """An error object."""
    return Fault(executed=executed, status=status, code=code, message=message)


def busy(**headers: str) -> Fault:
    """A 429 with these headers; ``_`` stands for ``-``."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Fault(executed=False, status=429, code="rate_limit_exceeded", message="slow down", headers=named)


class RejectedRequest(Exception):
    """The endpoint refuses the request, without a scripted fault."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class EndpointState:
    """Everything that exists at the endpoint, and its quirks."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The body of each create call."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of every request, names in lower case."""
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
    key: str | None = None
    """The only key that is accepted; ``None`` accepts any."""
    upload_life: float = 3600.0
    announces_expiry: bool = True
    skew: float = 0.0
    """Seconds by which this endpoint's clock is ahead."""
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
    "GET /models": "list_models",
    "GET /models/{id}": "get_model",
}
"""Route → name of the method that executes it."""


class FaultEndpoint(EndpointState):
    """The server; a context manager that runs it in a thread on loopback."""

    routes: ClassVar[dict[str, str]] = ROUTES

    def __init__(self, **quirks: Any) -> None:
        port = quirks.pop("port", 0)
        super().__init__(**quirks)
        self.lock = threading.RLock()
        self.scripts: dict[str, list[Fault | None]] = {}
        self.defaults: dict[str, Fault] = {}
        self.before: Callable[[str], None] = lambda _route: None
        """Called when a request has arrived and before its effect."""
        self.after: Callable[[str], None] = lambda _route: None
        """Called after the effect and before the response."""
        endpoint = self

        class Bound(RequestHandler):
            state = endpoint

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that are killed: the tests kill them."""

        self._server = Server(("127.0.0.1", port), Bound)
        self.port: int = self._server.server_address[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refuse_connections(self) -> None:
        """Stop listening; open connections continue."""
        self._server.socket.close()
        time.sleep(0.1)  # the loop's poll still holds the socket for 50 ms

    def script(self, route: str, *faults: Fault | None) -> None:
        """Script the next calls of a route."""
        self.scripts.setdefault(route, []).extend(faults)

    def forget(self, route: str) -> None:
        """Remove the rest of a route's script: how many calls it affected depends on what was in flight."""
        self.scripts.pop(route, None)

    def always(self, route: str, fault: Fault | None) -> None:
        """Set what happens to a route when its script is used up; ``None`` ends that."""
        if fault is None:
            self.defaults.pop(route, None)
        else:
            self.defaults[route] = fault

    def next_fault(self, route: str) -> Fault | None:
        """Count the call and take its fault from the script."""
        with self.lock:
            self.calls[route] += 1
            script = self.scripts.get(route)
            return script.pop(0) if script else self.defaults.get(route)

    def record(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Keep what was requested, before it is executed."""
        self.requests.append(headers)

    def now(self) -> int:
        """UTC Unix seconds by this endpoint's clock."""
        return int(time.time() + self.skew)

    def seed_job(self, **fields: Any) -> dict[str, Any]:
        """Add a job without a call."""
        job: dict[str, Any] = {**self._job(model="m", training_file="file-0", metadata={}), **fields}
        self.jobs[job["id"]] = job
        return job

    def execute(self, route: str, ids: list[str], query: dict[str, str], body: bytes, headers: dict[str, str]) -> Any:
        """Execute a call; returns its real response."""
        name = self.routes.get(route)
        if name is None:
            raise RejectedRequest(404, f"no route {route}")
        kind = headers.get("content-type", "")
        fields = form_of(body, kind) if kind.startswith("multipart/") else json.loads(body) if body else {}
        with self.lock:
            return getattr(self, name)(*ids, query=query, fields=fields, headers=headers)

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


def form_of(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a multipart body: text, or (file name, bytes)."""
    boundary = b"--" + content_type.split("boundary=", 1)[1].strip('"').encode()
    fields: dict[str, Any] = {}
    for piece in body.split(boundary)[1:-1]:
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        filename = re.search(rb'filename="([^"]*)"', head)
        value = data[:-2]
        if name:
            fields[name[1].decode()] = (filename[1].decode(), value) if filename else value.decode()
    return fields


class RequestHandler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: FaultEndpoint

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header, by this endpoint's clock."""
        return super().date_time_string(timestamp or time.time() + self.state.skew)

    def serve(self) -> None:
        """Read a request, execute it, and apply the scripted fault."""
        state = self.state
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urllib.parse.urlsplit(self.path)
        route, ids = route_of(self.command, url.path.removeprefix("/v1"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        state.record(self.command, self.path, body, headers)
        fault = state.next_fault(route) or Fault()
        state.before(route)
        time.sleep(fault.delay)
        status, answer = self.outcome(fault, route, ids, dict(urllib.parse.parse_qsl(url.query)), body, headers)
        state.after(route)
        self.reply(fault, fault.status or status, fault.body if fault.body is not None else answer)

    do_GET = do_POST = do_DELETE = serve

    def outcome(
        self, fault: Fault, route: str, ids: list[str], query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Execute the request; returns status and body of the real response."""
        state = self.state
        if state.key is not None and headers.get("authorization") != f"Bearer {state.key}":
            return 401, error_of("Incorrect API key provided", "invalid_api_key")
        answer: Any = {}
        if fault.executed:
            try:
                answer = state.execute(route, ids, query, body, headers)
            except RejectedRequest as no:
                return no.status, error_of(no.message, no.code)
        if fault.status is not None and fault.status >= 300:
            return fault.status, error_of(fault.message, fault.code)
        return 200, answer if isinstance(answer, bytes) else json.dumps(answer, default=str).encode()

    def reply(self, fault: Fault, status: int, body: bytes) -> None:
        """Send the response, or what the fault turns it into."""
        self.close_connection = fault.then != "answer"
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.then in ("drop", "reset"):
            self.connection.close()
            return
        self.send_response(status)
        is_stream = body.startswith(b"data: ")
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        self.send_header("Content-Length", str(len(body) + (64 if fault.then == "cut" else 0)))
        for name, value in fault.headers:
            self.send_header(name, value)
        self.end_headers()
        for chunk in self.chunks(fault, body):
            self.wfile.write(chunk)

    def chunks(self, fault: Fault, body: bytes) -> Iterator[bytes]:
        """The body, as fast as the fault allows."""
        if fault.then == "drip":
            for index in range(len(body)):
                yield body[index : index + 1]
                time.sleep(0.05)
        elif fault.then == "stall":
            yield body[: len(body) // 2]
            with contextlib.suppress(OSError):
                self.connection.settimeout(60)
                self.rfile.read(1)
        else:
            yield body


def error_of(message: str, code: str | None) -> bytes:
    """An error object in the form of the API."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return json.dumps({"error": error}).encode()


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
