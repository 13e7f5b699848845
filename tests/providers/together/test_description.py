"""Every request that ftpipe sends to Together is allowed by the published description: schemathesis in reverse.

The trimmed description beside the fake is always used. ``FTPIPE_TOGETHER_SPEC=FILE pytest tests/providers/together``
compares with a full one, too: togethercomputer/openapi, as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ftpipe.providers.provider import Provider
from ftpipe.records import Hyperparameters, JobRequest, Method, UploadedFile
from ftpipe.records.deployment import deployment_name
from tests.fakes.openapi_check import METHODS, OpenApiCheck
from tests.fakes.together import BASE, DESCRIPTION, TogetherServer

FULL = os.environ.get("FTPIPE_TOGETHER_SPEC", "")
needs_full = pytest.mark.skipif(not FULL, reason="FTPIPE_TOGETHER_SPEC names no description")


def call_everything(provider: Provider, server: TogetherServer, folder: Path) -> None:
    """One call of every method that sends something."""
    path = folder / "train.jsonl"
    path.write_bytes(b'{"messages": []}\n')
    file = provider.files.upload(path, filename="a.jsonl", on_bytes=lambda _done: None)
    provider.files.get(file.id)
    provider.jobs.check_can_create(BASE, hyperparameters=Hyperparameters(n_epochs=1))
    provider.files.find(filename="a.jsonl", size=1)
    provider.files.content(file.id)
    server.files[file.id]["processing_status"] = "COMPLETED"
    uploaded = UploadedFile(id=file.id, endpoint="e", sha256="0" * 64, bytes=3, filename="a.jsonl", created_at=0)
    hyperparameters = Hyperparameters(n_epochs=2, learning_rate=1e-4, beta=0.2, lora_r=8, lora_alpha=16)
    for method in (Method.SUPERVISED, Method.DPO):
        request = JobRequest(
            model=BASE,
            training_file=uploaded,
            validation_file=uploaded,
            method=method,
            hyperparameters=hyperparameters,
            suffix="support",
            seed=7,
        )
        provider.jobs.quote(request)
        provider.jobs.create(request, key="key")
    server.statuses = ("completed",)
    job = provider.jobs.get("ft-0001")
    provider.jobs.find_by_key("key")
    provider.jobs.events(job.id)
    provider.jobs.checkpoints(job.id)
    (folder / "weights").mkdir()
    provider.jobs.download_weights(job.id, folder / "weights", on_bytes=lambda _done, _total: None)
    provider.models.names()
    provider.models.require_base(BASE)
    model = job.fine_tuned_model or ""
    assert provider.deployments is not None
    option = provider.deployments.options(model, job_id=job.id)[0]
    name = deployment_name(model)
    provider.deployments.create(model, option, name=name)
    provider.deployments.list()
    provider.models.chat(model, [{"role": "user", "content": "hi"}], temperature=0.0)
    provider.deployments.stop(name)
    provider.jobs.cancel(job.id)
    provider.jobs.delete(job.id)
    provider.files.delete(file.id)


@pytest.mark.needs("zstandard")
def test_every_request_is_described(server: TogetherServer, provider: Provider, tmp_path: Path) -> None:
    """And every operation of the trimmed description was used, but those of multi-part uploads."""
    call_everything(provider, server, tmp_path)
    assert server.violations == []
    document = server.checks[0].document
    operations = {f"{verb.upper()} {path}" for path, item in document["paths"].items() for verb in item}
    assert {one for one in operations - server.checks[0].compared if "/multipart/" not in one} == set()


@needs_full
def test_every_request_is_in_the_full_description(server: TogetherServer, provider: Provider, tmp_path: Path) -> None:
    """As it was published, not as it is trimmed here."""
    full = OpenApiCheck(Path(FULL), ignores_unknown_paths=True)
    server.checks.append(full)
    call_everything(provider, server, tmp_path)
    assert server.violations == []
    assert {"POST /fine-tunes", "POST /fine-tunes/estimate-price", "GET /finetune/download"} <= full.compared
    assert len(full.compared) >= 14


@needs_full
def test_trimmed_description_has_the_fields_of_the_full_one() -> None:
    """Nothing was added or lost where both describe a path."""
    trimmed, full = (json.loads(Path(path).read_text(encoding="utf-8")) for path in (DESCRIPTION, FULL))

    def fields(document: dict[str, Any], path: str, verb: str) -> set[str]:
        content = document["paths"][path][verb].get("requestBody", {}).get("content", {})
        return {name for kind in content.values() for name in kind["schema"].get("properties", {})}

    compared = 0
    for path, item in trimmed["paths"].items():
        for verb in METHODS:
            if verb in item and "x-source" not in item[verb]:
                short = path.removeprefix("/v1")
                assert fields(trimmed, path, verb) == fields(full, short, verb), path
                compared += 1
    assert compared >= 14
    schemas = trimmed["components"]["schemas"]
    assert {name: schema.get("properties", {}).keys() for name, schema in schemas.items()} == {
        name: full["components"]["schemas"][name].get("properties", {}).keys() for name in schemas
    }
