"""Every request that ftpipe sends to Fireworks is allowed by its published types: schemathesis in reverse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.providers.fireworks import datasets
from ftpipe.providers.provider import Provider
from ftpipe.records import Method
from ftpipe.records.deployment import deployment_name
from tests.fakes.fireworks import BASE, PARENT, FireworksServer
from tests.fakes.openapi_check import OpenApiCheck
from tests.fakes.scripted_server import Request
from tests.faults.fireworks_environment import fireworks_provider, request_of, wait_for_end

UNUSED = {"PATCH /v1/accounts/{account}/deployments/{deployment}:scale"}
"""Operations that are described because the tests of the description use them, and that ftpipe does not call."""


def call_everything(provider: Provider, host: FireworksServer, folder: Path) -> None:
    """One call of every method that sends something."""
    provider.files.find(filename="", size=0)
    validation = request_of(provider, folder / "v.jsonl", lines=4).training_file
    extra = {"maxContextLength": 8192, "learningRateWarmupSteps": 5, "optimizerWeightDecay": 0.1, "jinjaTemplate": "x"}
    values = {"batch_size": 4, "lora_r": 8, "beta": 0.2, "extra": extra}
    jobs = []
    for method in (Method.SUPERVISED, Method.DPO):
        request = request_of(
            provider,
            folder / "t.jsonl",
            method=method,
            suffix="support",
            hyperparameters=values,
            validation_file=validation if method is Method.SUPERVISED else None,
        )
        jobs.append(provider.jobs.create(request, key="key"))
        wait_for_end(provider, jobs[-1].id)
        provider.jobs.events(jobs[-1].id)
    provider.files.content(validation.id)
    list(provider.jobs.recent())
    provider.jobs.check_can_create(BASE)
    provider.models.names()
    (folder / "weights").mkdir()
    provider.jobs.download_weights(jobs[0].id, folder / "weights", on_bytes=lambda _done, _total: None)
    model = provider.jobs.get(jobs[0].id).fine_tuned_model or ""
    assert provider.deployments is not None
    option = provider.deployments.options(model, job_id=jobs[0].id)[0]
    name = deployment_name(model)
    for _ in range(2):  # the second restores what was stopped, and starts what was scaled to zero
        provider.deployments.create(model, option, name=name)
        provider.models.chat(model, [{"role": "user", "content": "hi"}], temperature=0.0, max_tokens=5)
        provider.deployments.stop(name)
        host.deployments[f"{PARENT}/deployments/{name}"]["maxReplicaCount"] = 0
    for job in jobs:
        provider.jobs.cancel(job.id)
        provider.jobs.resume(job.id)
        provider.jobs.delete(job.id)
    provider.models.delete(model)
    provider.files.delete(validation.id)


def test_every_request_is_described(host: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of uploading; and every operation of the description was used."""
    provider = fireworks_provider(host, account="", sleep=lambda _seconds: None)
    call_everything(provider, host, tmp_path)
    monkeypatch.setattr(datasets, "MAX_DIRECT_BYTES", 100)
    request_of(provider, tmp_path / "large.jsonl", lines=30)
    provider.close()
    assert host.violations == []
    operations = {f"{verb.upper()} {path}" for path, item in host.check.document["paths"].items() for verb in item}
    assert operations - host.check.compared == UNUSED


def problems(method: str, path: str, body: Any = None, query: dict[str, str] | None = None) -> list[str]:
    """What the description does not allow of a request of the account."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = Request(f"{method} {path}", [], f"/v1/{PARENT}{path}", query or {}, data, headers)
    return OpenApiCheck(Path(__file__).parents[2] / "fakes/fireworks_openapi.json").problems(request)


@pytest.mark.parametrize(
    ("method", "path", "body", "query"),
    [
        ("POST", "/supervisedFineTuningJobs", {"dataset": "d", "seed": 7}, None),
        ("POST", "/supervisedFineTuningJobs", {"baseModel": BASE}, None),
        ("POST", "/supervisedFineTuningJobs", {"dataset": "d", "learningRate": "1e-4"}, None),
        ("POST", "/supervisedFineTuningJobs", {"dataset": "d"}, {"jobId": "x"}),
        ("POST", "/dpoJobs", {"dataset": "d", "epochs": 3}, None),
        ("POST", "/datasets", {"datasetId": "d", "dataset": {"exampleCount": 12}}, None),
        ("POST", "/datasets/d:getUploadEndpoint", {"filenameToSize": {"a": 12}}, None),
        ("POST", "/fine_tuning/jobs", {}, None),
        ("GET", "/datasets", None, {"limit": "5"}),
        ("GET", "/datasets", None, {"pageSize": "many"}),
    ],
)
def test_description_refuses_other_requests(method: str, path: str, body: Any, query: dict[str, str] | None) -> None:
    """The check can fail: unknown and missing fields, other types, int64 as a number, unknown paths and parameters."""
    assert problems(method, path, body, query)
