"""A local Together, from its published description: every request is compared with it, every response can be scripted.

The routes are those of togethercomputer/openapi 090263a (2026-04-28) and, for what that lacks (uploads to presigned
addresses, ``/v2``, ``/v3``), of ``together`` 3.1.1. ``tests/fakes/together_openapi.json`` is the part that ftpipe uses.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import time
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fakes.openapi_check import OpenApiCheck
from tests.fakes.scripted_server import Answer, RejectedRequest, Request, ScriptedServer, ServerState

DESCRIPTION = Path(__file__).with_name("together_openapi.json")
BASE = "Qwen/Qwen3.5-9B"
PROJECT = "proj_1"


@dataclass
class TogetherState(ServerState):
    """Everything that exists there, and its quirks."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The body of each create call."""
    violations: list[str] = field(default_factory=list)
    """Requests that the description does not allow."""
    checks: list[OpenApiCheck] = field(default_factory=lambda: [OpenApiCheck(DESCRIPTION)])
    statuses: tuple[str, ...] = ("pending", "queued", "running", "completed")
    """A job's status each time it is read; the last one is repeated."""
    file_status: str = "COMPLETED"
    file_error: str | None = None
    lists_suffix: bool = True
    """Whether jobs in lists have their suffix; all of a truncated job but its id is optional."""
    list_lag: float = 0.0
    """Seconds until a new job is listed."""
    price: float | None = 4.0
    is_allowed: bool = True
    is_servable: bool = True
    project_type: str = "project_api_key"


class TogetherServer(ScriptedServer, TogetherState):
    """The server; a context manager that runs it in a thread on loopback."""

    def find_route(self, method: str, path: str) -> tuple[str, list[str]]:
        """The route of the table that fits."""
        for route in ROUTES:
            verb, _, pattern = route.partition(" ")
            match = re.fullmatch(re.sub(r"\{\w+\}", "([^/]+)", pattern), path)
            if verb == method and match:
                return route, [urllib.parse.unquote(part) for part in match.groups()]
        return f"{method} {path}", []

    def execute(self, request: Request) -> Any:
        """Compare a request with the description, and execute it."""
        name = ROUTES.get(request.route)
        if name is None:
            raise RejectedRequest(404, f"no route {request.route}")
        for check in self.checks:
            self.violations += check.problems(request)
        with self.lock:
            return getattr(self, name)(*request.ids, request=request)

    def is_authorized(self, request: Request) -> bool:
        """The storage gets no key: it would be a leak."""
        if request.path.startswith("/storage/"):
            if "authorization" in request.headers:
                self.violations.append(f"the key was sent to the storage: {request.route}")
            return True
        return super().is_authorized(request)

    def start_file(self, *, request: Request) -> Answer:
        """``POST /v1/files``: an address for the bytes, or the file that has them already."""
        fields = request.fields
        known = next((f for f in self.files.values() if f["checksum"] == fields["checksum"]), None)
        if known is not None:
            return Answer(409, json.dumps({"file_id": known["id"]}).encode())
        file = self._file(fields["file_name"], fields["checksum"])
        location = f"{self.origin}/storage/{file['id']}?signature=secret"
        return Answer(302, b"", (("Location", location), ("X-Together-File-Id", file["id"])))

    def _file(self, name: str, checksum: str) -> dict[str, Any]:
        file: dict[str, Any] = {
            "id": f"file-{len(self.files) + 1:04}",
            "object": "file",
            "bytes": 0,
            "created_at": self.now(),
            "filename": name,
            "purpose": "fine-tune",
            "FileType": "jsonl",
            "processing_status": None,
            "validation_report": None,
            "checksum": checksum,
        }
        self.files[file["id"]] = file
        return file

    def put_bytes(self, file_id: str, *, request: Request) -> Answer:
        """The storage takes the bytes of a file."""
        self._store(file_id, request.body)
        return Answer(200, b"", (("ETag", f'"{hashlib.md5(request.body, usedforsecurity=False).hexdigest()}"'),))

    def _store(self, file_id: str, data: bytes) -> None:
        self.contents[file_id] = data
        self.files[file_id]["bytes"] = len(data)

    def put_part(self, upload_id: str, number: str, *, request: Request) -> Answer:
        """The storage takes a part."""
        tag = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
        self.uploads[upload_id]["parts"][int(number)] = (tag, request.body)
        return Answer(200, b"", (("ETag", f'"{tag}"'),))

    def start_multipart(self, *, request: Request) -> Any:
        """``POST /v1/files/multipart/initiate``."""
        fields = request.fields
        known = next((f for f in self.files.values() if f["checksum"] == fields["checksum"]), None)
        if known is not None:
            return Answer(409, json.dumps({"file_id": known["id"]}).encode())
        upload_id = f"upload-{len(self.uploads) + 1}"
        self.uploads[upload_id] = {"fields": fields, "parts": {}}
        parts = [
            {
                "PartNumber": n,
                "URL": f"{self.origin}/storage/{upload_id}/{n}?signature=secret",
                "Headers": {"x-part": n},
            }
            for n in range(1, fields["num_parts"] + 1)
        ]
        self.uploads[upload_id]["file_id"] = f"file-{len(self.files) + 1:04}"
        return {"upload_id": upload_id, "file_id": self.uploads[upload_id]["file_id"], "parts": parts}

    def complete_multipart(self, *, request: Request) -> Any:
        """``POST /v1/files/multipart/complete``."""
        upload = self.uploads[request.fields["upload_id"]]
        named = {part["part_number"]: part["etag"] for part in request.fields["parts"]}
        if named != {number: tag for number, (tag, _) in upload["parts"].items()}:
            raise RejectedRequest(400, "the parts do not match")
        file = self._file(upload["fields"]["file_name"], upload["fields"]["checksum"])
        self._store(file["id"], b"".join(data for _, (_, data) in sorted(upload["parts"].items())))
        file["processing_status"] = self.file_status
        return {"file": public(file)}

    def abort_multipart(self, *, request: Request) -> Any:
        """``POST /v1/files/multipart/abort``."""
        self.uploads.pop(request.fields["upload_id"])
        return {}

    def preprocess(self, file_id: str, *, request: Request) -> Any:
        """``POST /v1/files/{id}/preprocess``: the check starts, if the bytes are there and are those announced."""
        file = self._known(self.files, file_id)
        if hashlib.sha256(self.contents.get(file_id, b"")).hexdigest() != file["checksum"]:
            raise RejectedRequest(400, f"the content of {file_id} does not have the announced checksum")
        file["processing_status"] = "PENDING"
        return public(file)

    def list_files(self, *, request: Request) -> Any:
        """``GET /v1/files``, without pages."""
        return {"data": [public(file) for file in self.files.values()]}

    def get_file(self, file_id: str, *, request: Request) -> Any:
        """``GET /v1/files/{id}``: each reading brings the check one step further."""
        file = self._known(self.files, file_id)
        shown = public(file)
        following = {"PENDING": "RUNNING", "RUNNING": self.file_status}
        file["processing_status"] = following.get(file["processing_status"], file["processing_status"])
        if file["processing_status"] == self.file_status:
            file["validation_report"] = {"valid": self.file_error is None, "error": self.file_error}
        return shown

    def file_content(self, file_id: str, *, request: Request) -> Any:
        """``GET /v1/files/{id}/content``."""
        return self._known(self.contents, file_id)

    def delete_file(self, file_id: str, *, request: Request) -> Any:
        """``DELETE /v1/files/{id}``."""
        self._known(self.files, file_id)
        del self.files[file_id]
        return {"id": file_id, "deleted": True}

    def _known(self, table: dict[str, Any], key: str) -> Any:
        if key not in table:
            raise RejectedRequest(404, f"{key} does not exist", "not_found")
        return table[key]

    def limits(self, *, request: Request) -> Any:
        """``GET /v1/fine-tunes/models/limits``."""
        if request.query["model_name"] != BASE:
            raise RejectedRequest(404, "the model is not available for fine-tuning")
        return {
            "model_name": BASE,
            "lora_training": {
                "max_rank": 64,
                "default_rank": 16,
                "min_batch_size": 8,
                "max_batch_size": 32,
                "max_batch_size_dpo": 16,
                "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            },
            "max_num_epochs": 20,
            "max_num_evals": 10,
            "max_num_checkpoints": 10,
            "min_learning_rate": 1e-7,
            "max_learning_rate": 1e-2,
            "max_seq_length_sft": 32768,
            "max_seq_length_dpo": 16384,
            "supports_vision": False,
            "supports_tools": True,
            "supports_reasoning": True,
            "merge_output_lora": True,
        }

    def supported(self, *, request: Request) -> Any:
        """``GET /v1/fine-tunes/models/supported``."""
        return {"models": [BASE, "openai/gpt-oss-20b"]}

    def estimate(self, *, request: Request) -> Any:
        """``POST /v1/fine-tunes/estimate-price``."""
        if self.price is None:
            return {"estimation_available": False, "unavailable_reason": "no price for this base"}
        return {
            "estimation_available": True,
            "estimated_total_price": self.price,
            "estimated_train_token_count": 1200,
            "estimated_eval_token_count": 0,
            "user_limit": 25.0,
            "allowed_to_proceed": self.is_allowed,
        }

    def create_job(self, *, request: Request) -> Any:
        """``POST /v1/fine-tunes``: the call that is paid; nothing here is idempotent."""
        fields = request.fields
        self.bodies.append(fields)
        file = self.files.get(fields["training_file"])
        if file is None or file["processing_status"] != "COMPLETED":
            raise RejectedRequest(400, f"the training file {fields['training_file']} was not processed")
        return self.truncated(self.seed_job(**fields))

    def seed_job(self, **fields: Any) -> dict[str, Any]:
        """Add a job without a call."""
        number = len(self.jobs) + 1
        name = f"team/{fields.get('model', BASE).rsplit('/', 1)[-1]}-{fields.get('suffix', 'x')}-{number:08x}"
        job = {
            "id": f"ft-{number:04}",
            "status": self.statuses[0],
            "created_at": iso(self.now()),
            "updated_at": iso(self.now()),
            "model": BASE,
            "training_file": "file-0000",
            "token_count": 0,
            "total_price": 0,
            "events": [],
            "output": name,
            "reads": 0,
            "created": time.time(),
            **fields,
        }
        self.jobs[job["id"]] = job
        return job

    def truncated(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job as lists and the create call show it."""
        hidden = ("reads", "created", "output", "events", *(() if self.lists_suffix else ("suffix",)))
        return {name: value for name, value in job.items() if name not in hidden}

    def list_jobs(self, *, request: Request) -> Any:
        """``GET /v1/fine-tunes``: no pages, no filter, in no order."""
        jobs = [job for job in self.jobs.values() if time.time() - job["created"] >= self.list_lag]
        return {"data": [self.truncated(job) for job in jobs]}

    def get_job(self, job_id: str, *, request: Request) -> Any:
        """``GET /v1/fine-tunes/{id}``: each time the job is read, its status advances."""
        job = self._known(self.jobs, job_id)
        job["status"] = self.statuses[min(job["reads"], len(self.statuses) - 1)]
        job["reads"] += 1
        if job["status"] == "completed":
            job |= {
                "model_output_name": job["output"],
                "model_object_id": f"ml_{job_id}",
                "token_count": 400,
                "total_price": 4_000_000_000,
            }
        return {name: value for name, value in job.items() if name not in ("reads", "created", "output")}

    def cancel_job(self, job_id: str, *, request: Request) -> Any:
        """``POST /v1/fine-tunes/{id}/cancel``."""
        job = self._known(self.jobs, job_id)
        self.statuses = ("cancelled",)
        return self.truncated(job)

    def delete_job(self, job_id: str, *, request: Request) -> Any:
        """``DELETE /v1/fine-tunes/{id}``."""
        self._known(self.jobs, job_id)
        del self.jobs[job_id]
        return {"message": "deleted"}

    def list_events(self, job_id: str, *, request: Request) -> Any:
        """``GET /v1/fine-tunes/{id}/events``: without pages and ids."""
        job = self._known(self.jobs, job_id)
        return {
            "data": [
                {
                    "object": "fine-tune-event",
                    "created_at": job["created_at"],
                    "level": "legacy_info" if number else "info",
                    "message": f"event {number}",
                    "type": "training_start",
                    "step": number,
                    "total_steps": 8,
                    "hash": "",
                }
                for number in range(job["reads"])
            ]
        }

    def list_metrics(self, job_id: str, *, request: Request) -> Any:
        """``GET /v1/fine-tunes/{id}/metrics``."""
        reads = self._known(self.jobs, job_id)["reads"]
        rows = [{"train/global_step": step, "train/loss": 1 / step} for step in range(1, reads + 1)]
        return {"metrics": [*rows, {"eval/loss": 0.5, "train/global_step": 1}]}

    def list_checkpoints(self, job_id: str, *, request: Request) -> Any:
        """``GET /v1/fine-tunes/{id}/checkpoints``."""
        created = self._known(self.jobs, job_id)["created_at"]
        rows = [
            {"step": step, "path": "s3://x", "created_at": created, "checkpoint_type": "step"} for step in (8, 4, 8)
        ]
        return {"data": rows}

    def weights(self, *, request: Request) -> Any:
        """``GET /v1/finetune/download``: leads to the storage."""
        job_id = request.query["ft_id"]
        self._known(self.jobs, job_id)
        return Answer(302, b"", (("Location", f"{self.origin}/storage/weights/{job_id}?signature=secret"),))

    def stored_weights(self, job_id: str, *, request: Request) -> bytes:
        """The storage gives the archive of an adapter."""
        return weights_archive({"adapter/adapter_config.json": b'{"r": 16}', "adapter/adapter_model.safetensors": b"w"})

    def list_models(self, *, request: Request) -> Any:
        """``GET /v1/models``: a bare list."""
        return [{"id": BASE, "object": "model", "created": 1, "type": "chat"}]

    def chat(self, *, request: Request) -> Any:
        """``POST /v1/chat/completions``."""
        model = str(request.fields["model"])
        ready = [one for one in self.deployments.values() if one["status"]["state"].endswith("READY")]
        running: set[str] = {str(one["endpoint"]) for one in ready}
        if model != BASE and model not in {str(self.endpoints[one]["name"]) for one in running}:
            raise RejectedRequest(404, f"the model {model} does not exist", "model_not_available")
        message = {"role": "assistant", "content": f"answer of {model}"}
        if request.fields.get("stream"):
            chunk = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": model}
            chunk["choices"] = [{"index": 0, "delta": message, "finish_reason": "stop"}]
            return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        return {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }

    def whoami(self, *, request: Request) -> Any:
        """``GET /v3/whoami``."""
        project = {"project": {"id": PROJECT, "name": "p", "slug": "team"}} if "project" in self.project_type else {}
        return {"type": self.project_type, **project}

    def list_configs(self, _project: str, *, request: Request) -> Any:
        """``GET /v2/projects/{id}/configs``: empty if the model cannot be served."""
        if not self.is_servable or not request.query.get("referenceModel", "").startswith("projects/"):
            return {"object": "list", "data": [], "next_cursor": None}
        configs = [
            {
                "id": f"cr_{number}",
                "projectId": "proj_public",
                "selectors": [{"key": "gpu_type", "value": gpu}, {"key": "gpu_count", "value": "1"}],
            }
            for number, gpu in enumerate(("B200", "H100"))
        ]
        after = request.query.get("after")
        page = configs[1:] if after else configs[:1]
        return {"object": "list", "data": page, "next_cursor": None if after else "cr_0"}

    def supported_models(self, *, request: Request) -> Any:
        """``GET /v2/supported-models``."""
        rows = [{"id": "sm_1", "name": BASE, "baseModel": "projects/proj_public/models/ml_base"}]
        return {"object": "list", "data": rows, "next_cursor": None}

    def hardware(self, *, request: Request) -> Any:
        """``GET /v2/public/inference-instance-types``."""
        prices = {"H100": 549, "B200": 1199}
        rows = [{"id": g, "gpuType": g, "gpuCount": 1, "priceCentsPerHour": cents} for g, cents in prices.items()]
        return {"object": "list", "data": rows, "next_cursor": None}

    def list_endpoints(self, _project: str, *, request: Request) -> Any:
        """``GET /v2/projects/{id}/endpoints``."""
        return {"object": "list", "data": list(self.endpoints.values()), "next_cursor": None}

    def create_endpoint(self, _project: str, *, request: Request) -> Any:
        """``POST /v2/projects/{id}/endpoints``: a name can be used once."""
        name = f"team/{request.fields['name']}"
        if any(endpoint["name"] == name for endpoint in self.endpoints.values()):
            raise RejectedRequest(409, f"{name} exists")
        endpoint: dict[str, Any] = {"id": f"ep_{len(self.endpoints) + 1}", "name": name, "trafficSplit": []}
        self.endpoints[endpoint["id"]] = endpoint
        return endpoint

    def get_endpoint(self, _project: str, endpoint_id: str, *, request: Request) -> Any:
        """``GET /v2/projects/{id}/endpoints/{id}``."""
        return self._known(self.endpoints, endpoint_id)

    def update_endpoint(self, _project: str, endpoint_id: str, *, request: Request) -> Any:
        """``PATCH /v2/projects/{id}/endpoints/{id}``."""
        self._known(self.endpoints, endpoint_id).update(request.fields)
        return self.endpoints[endpoint_id]

    def delete_endpoint(self, _project: str, endpoint_id: str, *, request: Request) -> Any:
        """``DELETE /v2/projects/{id}/endpoints/{id}``."""
        self._known(self.endpoints, endpoint_id)
        if any(one["endpoint"] == endpoint_id for one in self.deployments.values()):
            raise RejectedRequest(400, "the endpoint has deployments")
        del self.endpoints[endpoint_id]
        return {}

    def list_deployments(self, _project: str, endpoint_id: str, *, request: Request) -> Any:
        """``GET …/deployments``: each reading brings those that start or stop one step further."""
        self._known(self.endpoints, endpoint_id)
        rows = [self._advance(one) for one in self.deployments.values() if one["endpoint"] == endpoint_id]
        return {"object": "list", "data": rows, "next_cursor": None}

    def create_deployment(self, _project: str, endpoint_id: str, *, request: Request) -> Any:
        """``POST …/deployments``, or only its check."""
        self._known(self.endpoints, endpoint_id)
        fields = request.fields
        if not fields["model"].startswith("projects/") or not fields["config"].startswith("projects/"):
            raise RejectedRequest(400, "model and config are resource names")
        deployment = {
            "id": f"dep_{len(self.deployments) + 1}",
            "endpoint": endpoint_id,
            "hardware": "1x H100",
            "createdAt": iso(self.now()),
            "status": {"state": "DEPLOYMENT_STATE_PROVISIONING", "message": ""},
            **fields,
        }
        if request.query.get("validateOnly") == "true":
            return deployment
        self.deployments[deployment["id"]] = deployment
        return deployment

    def get_deployment(self, _project: str, _endpoint: str, deployment_id: str, *, request: Request) -> Any:
        """``GET …/deployments/{id}``."""
        return self._advance(self._known(self.deployments, deployment_id))

    def _advance(self, deployment: dict[str, Any]) -> dict[str, Any]:
        following = {"PROVISIONING": "READY", "STOPPING": "STOPPED"}
        state = deployment["status"]["state"].removeprefix("DEPLOYMENT_STATE_")
        shown = {**deployment, "status": dict(deployment["status"])}
        deployment["status"]["state"] = f"DEPLOYMENT_STATE_{following.get(state, state)}"
        return shown

    def update_deployment(self, _project: str, _endpoint: str, deployment_id: str, *, request: Request) -> Any:
        """``PATCH …/deployments/{id}``: scaled to zero it stops."""
        deployment = self._known(self.deployments, deployment_id)
        replicas = request.fields["autoscaling"]["maxReplicas"]
        deployment["status"]["state"] = f"DEPLOYMENT_STATE_{'PROVISIONING' if replicas else 'STOPPING'}"
        return deployment

    def delete_deployment(self, _project: str, _endpoint: str, deployment_id: str, *, request: Request) -> Any:
        """``DELETE …/deployments/{id}``: only a stopped one."""
        if not self._known(self.deployments, deployment_id)["status"]["state"].endswith("STOPPED"):
            raise RejectedRequest(400, "the deployment is running")
        del self.deployments[deployment_id]
        return {}


ENDPOINT, DEPLOYMENT = "/v2/projects/{id}/endpoints/{id}", "/v2/projects/{id}/endpoints/{id}/deployments/{id}"
ROUTES = {
    "POST /v1/files": "start_file",
    "GET /v1/files": "list_files",
    "POST /v1/files/multipart/initiate": "start_multipart",
    "POST /v1/files/multipart/complete": "complete_multipart",
    "POST /v1/files/multipart/abort": "abort_multipart",
    "GET /v1/files/{id}": "get_file",
    "DELETE /v1/files/{id}": "delete_file",
    "GET /v1/files/{id}/content": "file_content",
    "POST /v1/files/{id}/preprocess": "preprocess",
    "PUT /storage/{id}": "put_bytes",
    "PUT /storage/{id}/{id}": "put_part",
    "GET /storage/weights/{id}": "stored_weights",
    "GET /v1/fine-tunes/models/limits": "limits",
    "GET /v1/fine-tunes/models/supported": "supported",
    "POST /v1/fine-tunes/estimate-price": "estimate",
    "POST /v1/fine-tunes": "create_job",
    "GET /v1/fine-tunes": "list_jobs",
    "GET /v1/fine-tunes/{id}": "get_job",
    "DELETE /v1/fine-tunes/{id}": "delete_job",
    "POST /v1/fine-tunes/{id}/cancel": "cancel_job",
    "GET /v1/fine-tunes/{id}/events": "list_events",
    "GET /v1/fine-tunes/{id}/metrics": "list_metrics",
    "GET /v1/fine-tunes/{id}/checkpoints": "list_checkpoints",
    "GET /v1/finetune/download": "weights",
    "GET /v1/models": "list_models",
    "POST /v1/chat/completions": "chat",
    "GET /v3/whoami": "whoami",
    "GET /v2/public/inference-instance-types": "hardware",
    "GET /v2/supported-models": "supported_models",
    "GET /v2/projects/{id}/configs": "list_configs",
    "GET /v2/projects/{id}/endpoints": "list_endpoints",
    "POST /v2/projects/{id}/endpoints": "create_endpoint",
    f"GET {ENDPOINT}": "get_endpoint",
    f"PATCH {ENDPOINT}": "update_endpoint",
    f"DELETE {ENDPOINT}": "delete_endpoint",
    f"GET {ENDPOINT}/deployments": "list_deployments",
    f"POST {ENDPOINT}/deployments": "create_deployment",
    f"GET {DEPLOYMENT}": "get_deployment",
    f"PATCH {DEPLOYMENT}": "update_deployment",
    f"DELETE {DEPLOYMENT}": "delete_deployment",
}


def public(file: dict[str, Any]) -> dict[str, Any]:
    """A file without what only the server knows."""
    return {name: value for name, value in file.items() if name != "checksum"}


def iso(seconds: float) -> str:
    """A time as Together writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def weights_archive(files: dict[str, bytes]) -> bytes:
    """A tar archive compressed with zstd."""
    import zstandard

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    compressed: bytes = zstandard.compress(raw.getvalue())
    return compressed
