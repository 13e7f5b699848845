"""A local Fireworks: its own API and chat, every request checked against the published description.

::

    with FireworksServer() as host:
        host.script("POST /supervisedFineTuningJobs", LOST)      # creates the job, then drops the connection
        ...
        assert len(host.jobs) == 1                               # what was paid
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fakes.openapi_check import OpenApiCheck
from tests.fakes.scripted_server import Answer, RejectedRequest, Request, ScriptedServer, ServerState

DESCRIPTION = Path(__file__).with_name("fireworks_openapi.json")
ACCOUNT = "acme"
PARENT = f"accounts/{ACCOUNT}"
BASE = "accounts/fireworks/models/qwen3-8b"
RESOURCE_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
MAX_DIRECT_BYTES = 150_000_000
STATES = ("JOB_STATE_CREATING", "JOB_STATE_VALIDATING", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_COMPLETED")
ENDED = {"COMPLETED", "EARLY_STOPPED", "FAILED", "EXPIRED", "CANCELLED"}


@dataclass
class FireworksState(ServerState):
    """Everything that exists at the host, and its quirks."""

    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    """Bytes by the id of their dataset."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Paid jobs by name, supervised and DPO."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The body of each call that creates a job."""
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Bases and tuned models by name."""
    accounts: tuple[str, ...] = (ACCOUNT,)
    states: tuple[str, ...] = STATES
    """A job's state each time it is read; the last one is repeated."""
    job_status: dict[str, Any] | None = None
    """Status object of a job that has ended."""
    dataset_status: dict[str, Any] | None = None
    processing_reads: int = 1
    """How often a dataset is read as UPLOADING after its bytes have come."""
    cold_answers: int = 0
    """How many chat requests are answered with 503 while the deployment is scaled up."""
    accepts_short_chat_name: bool = False
    """Whether chat knows ``model#id``, and not ``model#accounts/…/deployments/id``."""
    metrics: str | None = None
    """The metrics file instead of the usual one; empty for a URL without a file."""
    checks_answers: bool = True
    """Whether this host's own answers are compared with the description, too."""
    violations: list[str] = field(default_factory=list)
    """What of the requests the description does not allow."""
    urls_with_key: list[str] = field(default_factory=list)
    """Signed URLs that were called with a key."""


class FireworksServer(ScriptedServer, FireworksState):
    """The host; a context manager that runs it in a thread on loopback."""

    def __init__(self, **quirks: Any) -> None:
        super().__init__(**quirks)
        self.base_url = self.origin
        self.check = OpenApiCheck(DESCRIPTION)
        self.models[BASE] = self._base(BASE, tunable=True)
        untunable = "accounts/fireworks/models/whisper-v3"
        self.models[untunable] = self._base(untunable, tunable=False)

    def find_route(self, method: str, path: str) -> tuple[str, list[str]]:
        """``POST /datasets/{dataset}:upload`` and its ids, without the account."""
        if path.startswith("/signed/"):
            return f"{method} /signed", [path]
        template, ids = self.check.match(method, path) or (path, [])
        return f"{method} {template.removeprefix('/v1').removeprefix('/accounts/{account}')}", ids

    def is_authorized(self, request: Request) -> bool:
        """Signed URLs need no key, and must not get one."""
        if request.route.endswith("/signed"):
            if "authorization" in request.headers:
                self.urls_with_key.append(request.path)
            return True
        return super().is_authorized(request)

    def error_body(self, message: str, code: str | None) -> bytes:
        """``{code, message, details}``, as gRPC has it."""
        return json.dumps(
            {"code": int(code) if code and code.isdigit() else 2, "message": message, "details": []}
        ).encode()

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The datasets, as the kill loop calls them."""
        return self.datasets

    def execute(self, request: Request) -> Any:
        """Check the request against the description, and execute it."""
        if request.route.endswith("/signed"):
            return self._signed(request)
        if problems := self.check.problems(request):
            self.violations += problems
            raise RejectedRequest(400, "; ".join(problems), "3")
        with self.lock:
            answer = HANDLERS[request.route](self, request, request.fields)
            # as it goes over the wire, before another request changes it
            answer = answer if isinstance(answer, Answer | bytes) else json.loads(json.dumps(answer))
        if self.checks_answers and not isinstance(answer, Answer):
            self.violations += self.check.answer_problems(request, answer)
        return answer

    # accounts and datasets

    def list_accounts(self, _request: Request, _body: Any) -> Any:
        """``GET /v1/accounts``."""
        return {"accounts": [{"name": f"accounts/{each}", "email": f"{each}@example.com"} for each in self.accounts]}

    def create_dataset(self, request: Request, body: Any) -> Any:
        """``POST /datasets``."""
        self._require_account(request)
        dataset_id = _checked_id(body["datasetId"])
        if dataset_id in self.datasets:
            raise RejectedRequest(409, f"dataset {dataset_id} already exists", "6")
        self.datasets[dataset_id] = {
            "name": f"{PARENT}/datasets/{dataset_id}",
            "createTime": self._time(),
            "state": "UPLOADING",
            "reads": 0,
            **body["dataset"],
        }
        return self._shown_dataset(dataset_id)

    def list_datasets(self, request: Request, _body: Any) -> Any:
        """``GET /datasets``."""
        self._require_account(request)
        return _page(request, "datasets", [self._shown_dataset(each) for each in self.datasets])

    def get_dataset(self, request: Request, _body: Any) -> Any:
        """``GET /datasets/{dataset}``; some reads after its bytes have come it is ready."""
        dataset_id = self._known_dataset(request)
        fields = self.datasets[dataset_id]
        if fields.get("validated") and self.dataset_status is None:
            fields["reads"] += 1
            if fields["reads"] > self.processing_reads:
                fields["state"] = "READY"
        return self._shown_dataset(dataset_id)

    def delete_dataset(self, request: Request, _body: Any) -> Any:
        """``DELETE /datasets/{dataset}``."""
        dataset_id = self._known_dataset(request)
        del self.datasets[dataset_id]
        self.contents.pop(dataset_id, None)
        return {}

    def upload(self, request: Request, body: Any) -> Any:
        """``POST /datasets/{dataset}:upload``."""
        dataset_id = self._known_dataset(request)
        filename, data = body["file"]
        if len(data) > MAX_DIRECT_BYTES:
            raise RejectedRequest(413, "the file is larger than 150 MB", "3")
        self._store(dataset_id, data)
        self.datasets[dataset_id]["validated"] = True
        return {"filename": filename}

    def upload_endpoint(self, request: Request, body: Any) -> Any:
        """``POST /datasets/{dataset}:getUploadEndpoint``."""
        dataset_id = self._known_dataset(request)
        headers = "X-Goog-SignedHeaders=content-type%3Bhost%3Bx-goog-content-length-range"
        urls = {
            name: f"{self.origin}/signed/{dataset_id}?{headers}&size={size}"
            for name, size in body["filenameToSize"].items()
        }
        return {"filenameToSignedUrls": urls}

    def validate_upload(self, request: Request, _body: Any) -> Any:
        """``POST /datasets/{dataset}:validateUpload``: without the bytes, the dataset is unusable from then on."""
        dataset_id = self._known_dataset(request)
        self.datasets[dataset_id]["validated" if dataset_id in self.contents else "wedged"] = True
        return {}

    def dataset_download(self, request: Request, _body: Any) -> Any:
        """``GET /datasets/{dataset}:getDownloadEndpoint``."""
        dataset_id = self._known_dataset(request)
        return {"filenameToSignedUrls": {f"{dataset_id}.jsonl": f"{self.origin}/signed/{dataset_id}"}}

    def _store(self, dataset_id: str, data: bytes) -> None:
        if self.datasets[dataset_id].get("wedged"):
            raise RejectedRequest(400, "the dataset was validated without its file", "9")
        if sum(1 for line in data.splitlines() if line.strip()) != int(self.datasets[dataset_id]["exampleCount"]):
            raise RejectedRequest(400, "exampleCount is not the number of lines", "3")
        self.contents[dataset_id] = data

    def _signed(self, request: Request) -> Any:
        """A store: a PUT with the headers that the URL names, or a GET."""
        name = request.path.removeprefix("/signed/")
        if request.route.startswith("PUT"):
            size = request.query["size"]
            headers = {"content-type": "application/octet-stream", "x-goog-content-length-range": f"{size},{size}"}
            if any(request.headers.get(key) != value for key, value in headers.items()) or len(request.body) != int(
                size
            ):
                raise RejectedRequest(403, "SignatureDoesNotMatch")
            with self.lock:
                self._store(name, request.body)
            return Answer()
        if name.startswith("metrics/"):
            text = self._metrics_of(self.jobs[name.removeprefix("metrics/")]) if self.metrics is None else self.metrics
            return Answer(body=text.encode()) if text else Answer(404, b"<Error>NoSuchKey</Error>")
        if name.startswith("weights/"):
            return Answer(body=f"weights of {name}".encode())
        if name not in self.contents:
            return Answer(404, b"<Error>NoSuchKey</Error>")
        return self.contents[name]

    # jobs

    def create_job(self, request: Request, body: Any) -> Any:
        """``POST /supervisedFineTuningJobs`` and ``POST /dpoJobs``: the call that is paid."""
        self._require_account(request)
        self.bodies.append(body)
        collection = "dpoJobs" if "/dpoJobs" in request.route else "supervisedFineTuningJobs"
        parameter = "dpoJobId" if collection == "dpoJobs" else "supervisedFineTuningJobId"
        name = f"{PARENT}/{collection}/{_checked_id(request.query[parameter])}"
        if name in self.jobs:
            raise RejectedRequest(409, f"{name} already exists", "6")
        config = body.get("trainingConfig", body)
        self._check_job(body, config)
        self.jobs[name] = {
            "name": name,
            "createTime": self._time(),
            "state": self.states[0],
            "reads": 0,
            **body,
        }
        return self._shown_job(name)

    def _check_job(self, body: dict[str, Any], config: dict[str, Any]) -> None:
        """What the real host refuses, as far as that is known."""
        dataset = body["dataset"].removeprefix(f"{PARENT}/datasets/")
        if self.datasets.get(dataset, {}).get("state") != "READY":
            raise RejectedRequest(400, f"dataset {body['dataset']} does not exist or is not ready", "3")
        if not self.models.get(config.get("baseModel", ""), {}).get("supervisedLoraTunable"):
            raise RejectedRequest(400, f"base model {config.get('baseModel')} is not tunable", "3")
        rank, context = config.get("loraRank", 8), config.get("maxContextLength", 16)
        beta = body.get("lossConfig", {}).get("dpo", {}).get("beta", 0.1)
        if rank > 32 or rank & (rank - 1) or context % 16 or not 0 < beta < 0.5:
            raise RejectedRequest(400, "a hyperparameter is out of range", "3")
        if "gradientAccumulationSteps" in config or len(body.get("displayName", "")) > 63:
            raise RejectedRequest(400, "a field is refused", "3")

    def list_jobs(self, request: Request, _body: Any) -> Any:
        """``GET /supervisedFineTuningJobs`` and ``GET /dpoJobs``."""
        self._require_account(request)
        collection = request.route.rsplit("/", 1)[-1]
        names = [name for name in self.jobs if f"/{collection}/" in name]
        names.sort(
            key=lambda name: str(self.jobs[name]["createTime"]), reverse="desc" in request.query.get("orderBy", "")
        )
        return _page(request, collection, [self._shown_job(name) for name in names])

    def get_job(self, request: Request, _body: Any) -> Any:
        """``GET …/{job}``: each time the job is read, its state advances."""
        name = self._known_job(request)
        job = self.jobs[name]
        if job.get("fixed") is None:
            job["state"] = self.states[min(job["reads"], len(self.states) - 1)]
            job["reads"] += 1
        self._end(name)
        return self._shown_job(name)

    def _end(self, name: str) -> None:
        job = self.jobs[name]
        word = str(job["state"]).removeprefix("JOB_STATE_")
        if word not in ENDED or "completedTime" in job:
            return
        job["completedTime"] = self._time()
        if word in ("COMPLETED", "EARLY_STOPPED"):
            model = job.get("trainingConfig", job)["outputModel"]
            details = {"baseModel": BASE, "r": 8, "targetModules": ["q_proj"]}
            self.models[model] = {"name": model, "kind": "HF_PEFT_ADDON", "state": "READY", "peftDetails": details}
        elif self.job_status is not None:
            job["status"] = self.job_status

    def cancel_job(self, request: Request, _body: Any) -> Any:
        """``POST …/{job}:cancel``."""
        job = self.jobs[self._known_job(request)]
        job |= {"state": "JOB_STATE_CANCELLED", "fixed": True, "completedTime": self._time()}
        return {}

    def resume_job(self, request: Request, _body: Any) -> Any:
        """``POST …/{job}:resume``."""
        job = self.jobs[self._known_job(request)]
        job |= {"state": "JOB_STATE_RUNNING", "fixed": None}
        return {}

    def delete_job(self, request: Request, _body: Any) -> Any:
        """``DELETE …/{job}``."""
        del self.jobs[self._known_job(request)]
        return {}

    def dpo_metrics(self, request: Request, _body: Any) -> Any:
        """``GET /dpoJobs/{job}:getMetricsFileEndpoint``."""
        return {"signedUrl": f"{self.origin}/signed/metrics/{self._known_job(request)}"}

    def _metrics_of(self, job: dict[str, Any]) -> str:
        steps = range(1, min(job["reads"], 8) + 1)
        rows = [{"step": step, "train/step": step, "train/loss": 1 / step, "train/lr": 1e-4} for step in steps]
        return "".join(json.dumps(row) + "\n" for row in rows)

    # models, deployments and chat

    def list_models(self, request: Request, _body: Any) -> Any:
        """``GET /models``."""
        owner = f"accounts/{request.ids[0]}/"
        return _page(request, "models", [each for name, each in self.models.items() if name.startswith(owner)])

    def get_model(self, request: Request, _body: Any) -> Any:
        """``GET /models/{model}``."""
        return self.models[self._known_model(request)]

    def delete_model(self, request: Request, _body: Any) -> Any:
        """``DELETE /models/{model}``."""
        del self.models[self._known_model(request)]
        return {}

    def model_download(self, request: Request, _body: Any) -> Any:
        """``GET /models/{model}:getDownloadEndpoint``."""
        model = self._known_model(request).rsplit("/", 1)[-1]
        names = ("adapter_config.json", "adapter_model.safetensors")
        return {"filenameToSignedUrls": {name: f"{self.origin}/signed/weights/{model}/{name}" for name in names}}

    def create_deployment(self, request: Request, body: Any) -> Any:
        """``POST /deployments``: the hourly bill begins; with ``validateOnly`` nothing is created."""
        self._require_account(request)
        name = f"{PARENT}/deployments/{_checked_id(request.query['deploymentId'])}"
        if body["baseModel"] not in self.models:
            raise RejectedRequest(404, f"model {body['baseModel']} not found", "5")
        if not body.get("deploymentShape"):
            raise RejectedRequest(412, "a deployment needs a shape", "9")
        shown = {
            **body,
            "name": name,
            "createTime": self._time(),
            "state": "CREATING",
            "acceleratorType": "NVIDIA_H100_80GB",
            "acceleratorCount": 1,
            "deploymentShape": "accounts/fireworks/deploymentShapes/rft-qwen3-8b/versions/a1",
        }
        if request.query.get("validateOnly") == "true":
            return shown
        if name in self.deployments:
            raise RejectedRequest(409, f"{name} already exists", "6")
        self.deployments[name] = shown
        return shown

    def list_deployments(self, request: Request, _body: Any) -> Any:
        """``GET /deployments``."""
        self._require_account(request)
        listed = [dict(fields) for fields in self.deployments.values()]
        for fields in self.deployments.values():
            fields["state"] = "READY" if fields["state"] == "CREATING" else fields["state"]
        return _page(request, "deployments", listed)

    def get_deployment(self, request: Request, _body: Any) -> Any:
        """``GET /deployments/{deployment}``; a new one is ready when it is read."""
        fields = self.deployments[self._known_deployment(request)]
        if fields["state"] == "CREATING":
            fields["state"] = "READY"
        return fields

    def update_deployment(self, request: Request, body: Any) -> Any:
        """``PATCH /deployments/{deployment}``."""
        fields = self.deployments[self._known_deployment(request)]
        fields |= body
        return fields

    def undelete_deployment(self, request: Request, _body: Any) -> Any:
        """``POST /deployments/{deployment}:undelete``."""
        fields = self.deployments[self._known_deployment(request)]
        if fields["state"] != "DELETED":
            raise RejectedRequest(400, "the deployment is not deleted", "9")
        fields["state"] = "CREATING"
        return fields

    def scale_deployment(self, request: Request, body: Any) -> Any:
        """``PATCH /deployments/{deployment}:scale``."""
        count = body.get("replicaCount", 0)
        self.deployments[self._known_deployment(request)] |= {"minReplicaCount": count, "maxReplicaCount": count}
        return {}

    def delete_deployment(self, request: Request, _body: Any) -> Any:
        """``DELETE /deployments/{deployment}``."""
        self.deployments[self._known_deployment(request)]["state"] = "DELETED"
        return {}

    def chat(self, _request: Request, body: Any) -> Any:
        """``POST /inference/v1/chat/completions``: bases answer, tuned models through their deployment only."""
        name, _, deployment = body["model"].partition("#")
        live = {each["name"]: each for each in self.deployments.values() if each["state"] in ("CREATING", "READY")}
        paths = (
            {path.rsplit("/", 1)[-1]: path for path in live} if self.accepts_short_chat_name else dict.fromkeys(live)
        )
        is_deployed = deployment in paths and live[paths[deployment] or deployment]["baseModel"] == name
        if name not in self.models or (not name.startswith("accounts/fireworks/") and not is_deployed):
            error = {"error": {"message": f"Model not found: {body['model']}", "code": "NOT_FOUND"}}
            return Answer(404, json.dumps(error).encode())
        if deployment and self.cold_answers > 0:
            self.cold_answers -= 1
            error = {"error": {"message": "scaling up", "code": "DEPLOYMENT_SCALING_UP"}}
            return Answer(503, json.dumps(error).encode())
        if body.get("stream"):
            return _streamed(body["model"], ["answer", " of ", body["model"]])
        message = {"role": "assistant", "content": f"answer of {body['model']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return {
            **{"id": "chat-1", "object": "chat.completion", "created": self.now(), "model": body["model"]},
            "choices": [choice],
            "usage": usage,
        }

    # parts of answers

    def _base(self, name: str, *, tunable: bool) -> dict[str, Any]:
        return {
            **{"name": name, "kind": "HF_BASE_MODEL", "state": "READY", "supportsLora": True},
            **{"supervisedLoraTunable": tunable, "trainingContextLength": 32768},
            "deprecationDate": {"year": 2027, "month": 1, "day": 15},
        }

    def _shown_dataset(self, dataset_id: str) -> dict[str, Any]:
        fields = {key: each for key, each in self.datasets[dataset_id].items() if key not in OWN_KEYS}
        return fields | ({"status": self.dataset_status} if self.dataset_status else {})

    def _shown_job(self, name: str) -> dict[str, Any]:
        fields = {key: each for key, each in self.jobs[name].items() if key not in OWN_KEYS}
        if "/dpoJobs/" in name:
            return fields
        cost = {"currencyCode": "USD", "units": "1", "nanos": 250_000_000}
        url = f"{self.origin}/signed/metrics/{name}"
        return {
            **fields,
            "estimatedCost": cost,
            "metricsFileSignedUrl": url,
            "jobProgress": {"percent": 50, "epoch": 0},
        }

    def _time(self) -> str:
        return datetime.fromtimestamp(time.time() + self.skew, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f789Z")

    def _require_account(self, request: Request) -> None:
        if request.ids[0] not in self.accounts:
            raise RejectedRequest(404, f"account {request.ids[0]} not found", "5")

    def _known_dataset(self, request: Request) -> str:
        self._require_account(request)
        if request.ids[1] not in self.datasets:
            raise RejectedRequest(404, f"dataset {request.ids[1]} not found", "5")
        return request.ids[1]

    def _known_job(self, request: Request) -> str:
        collection = "dpoJobs" if "/dpoJobs" in request.route else "supervisedFineTuningJobs"
        return _known(self.jobs, f"accounts/{request.ids[0]}/{collection}/{request.ids[1]}")

    def _known_model(self, request: Request) -> str:
        return _known(self.models, f"accounts/{request.ids[0]}/models/{request.ids[1]}")

    def _known_deployment(self, request: Request) -> str:
        return _known(self.deployments, f"accounts/{request.ids[0]}/deployments/{request.ids[1]}")


OWN_KEYS = frozenset({"reads", "fixed", "validated", "wedged"})
"""What the fake remembers beside the fields of the API."""

Handler = Callable[[FireworksServer, Request, Any], Any]
HANDLERS: dict[str, Handler] = {
    "GET /accounts": FireworksServer.list_accounts,
    "POST /datasets": FireworksServer.create_dataset,
    "GET /datasets": FireworksServer.list_datasets,
    "GET /datasets/{dataset}": FireworksServer.get_dataset,
    "DELETE /datasets/{dataset}": FireworksServer.delete_dataset,
    "POST /datasets/{dataset}:upload": FireworksServer.upload,
    "POST /datasets/{dataset}:getUploadEndpoint": FireworksServer.upload_endpoint,
    "POST /datasets/{dataset}:validateUpload": FireworksServer.validate_upload,
    "GET /datasets/{dataset}:getDownloadEndpoint": FireworksServer.dataset_download,
    "GET /dpoJobs/{job}:getMetricsFileEndpoint": FireworksServer.dpo_metrics,
    "GET /models": FireworksServer.list_models,
    "GET /models/{model}": FireworksServer.get_model,
    "DELETE /models/{model}": FireworksServer.delete_model,
    "GET /models/{model}:getDownloadEndpoint": FireworksServer.model_download,
    "POST /deployments": FireworksServer.create_deployment,
    "GET /deployments": FireworksServer.list_deployments,
    "GET /deployments/{deployment}": FireworksServer.get_deployment,
    "PATCH /deployments/{deployment}": FireworksServer.update_deployment,
    "POST /deployments/{deployment}:undelete": FireworksServer.undelete_deployment,
    "PATCH /deployments/{deployment}:scale": FireworksServer.scale_deployment,
    "DELETE /deployments/{deployment}": FireworksServer.delete_deployment,
    "POST /inference/v1/chat/completions": FireworksServer.chat,
}
for _collection in ("/supervisedFineTuningJobs", "/dpoJobs"):
    HANDLERS |= {
        f"POST {_collection}": FireworksServer.create_job,
        f"GET {_collection}": FireworksServer.list_jobs,
        f"GET {_collection}/{{job}}": FireworksServer.get_job,
        f"DELETE {_collection}/{{job}}": FireworksServer.delete_job,
        f"POST {_collection}/{{job}}:cancel": FireworksServer.cancel_job,
        f"POST {_collection}/{{job}}:resume": FireworksServer.resume_job,
    }


def _streamed(model: str, pieces: list[str]) -> Answer:
    """Server-sent events of a chat completion."""
    chunks = [
        {
            **{"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": model},
            "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
        }
        for piece in pieces
    ]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Answer(body="".join([*lines, "data: [DONE]\n\n"]).encode())


def _page(request: Request, key: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    """One page; the token is the position of the next item."""
    start, size = int(request.query.get("pageToken") or 0), min(int(request.query.get("pageSize", 50)), 200)
    page: dict[str, Any] = {key: items[start : start + size], "totalSize": len(items)}
    return page | ({"nextPageToken": str(start + size)} if start + size < len(items) else {})


def _known(items: dict[str, dict[str, Any]], name: str) -> str:
    if name not in items:
        raise RejectedRequest(404, f"{name} not found", "5")
    return name


def _checked_id(value: str) -> str:
    if not RESOURCE_ID.fullmatch(value):
        raise RejectedRequest(400, f"{value!r} is not an id of 1 to 63 of [a-z0-9-] that begins with a letter", "3")
    return value
