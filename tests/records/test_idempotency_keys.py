"""Keys that guard money: what is part of them, what is not, and that they stay the same in later versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.evaluation.response_cache import Request
from ftpipe.records import Hyperparameters, JobRequest, Method, Record, RunSpec, UploadedFile
from ftpipe.records import idempotency_keys as keys_module
from ftpipe.records.evaluation import SamplingParams
from ftpipe.records.idempotency_keys import (
    ANSWER_SAMPLING_FIELDS,
    EVALUATION_SAMPLING_FIELDS,
    HYPERPARAMETER_FIELDS,
    REQUEST_FIELDS,
    RUN_FIELDS,
    KeyFields,
    request_digest,
    run_key,
)

FILE = UploadedFile(id="file-1", endpoint="e", sha256="0" * 64, bytes=1, filename="a.jsonl", created_at=0)
SPEC = RunSpec(provider="openai", data=Path("a.jsonl"), model="base", method=Method.SUPERVISED)
REQUEST = JobRequest(model="base", training_file=FILE, suffix="support")
CHANGES: dict[str, Any] = {
    "model": "other",
    "method": Method.DPO,
    "hyperparameters": Hyperparameters(n_epochs=2),
    "suffix": "other",
    "seed": 7,
    "integrations": ({"type": "wandb"},),
    "grader": {"type": "lambda"},
    "metadata": {"team": "a"},
    "serve_as": "gpt-4o-mini",
}
UNCHANGED = ("model", "serve_as", "grader")
"""Not changed in the requests whose keys are fixed below."""


class LaterHyperparameters(Hyperparameters):
    """As a later version might have them."""

    warmup_steps: int = 0


class LaterSpec(RunSpec):
    """As a later version might have it."""

    packing: bool = False
    hyperparameters: Hyperparameters = LaterHyperparameters()


class LaterRequest(JobRequest):
    """As a later version might have it."""

    packing: bool = False
    hyperparameters: Hyperparameters = LaterHyperparameters()


def key_of(spec: RunSpec, **changes: Any) -> str:
    """The key of a run over the same files at the same endpoint, unless changed."""
    return run_key(spec, **{"endpoint": "e", "dataset_sha256": "0" * 64, "validation_sha256": None, **changes})


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (RunSpec, RUN_FIELDS),
        (JobRequest, REQUEST_FIELDS),
        (Hyperparameters, HYPERPARAMETER_FIELDS),
        (SamplingParams, EVALUATION_SAMPLING_FIELDS),
        (SamplingParams, ANSWER_SAMPLING_FIELDS),
    ],
)
def test_keys_list_every_field(record: type[Record], fields: KeyFields) -> None:
    """A new field has to be entered in `records/idempotency_keys.py`, as part of the key or not; each name once."""
    listed = [*fields.always, *fields.added, *fields.separate, *fields.ignored]
    assert sorted(listed) == sorted(record.model_fields)
    assert fields.names == frozenset(listed)


def test_keys_do_not_change() -> None:
    """These are in databases and at endpoints: with other ones the same command would be paid for again."""
    spec = SPEC.model_copy(update={name: value for name, value in CHANGES.items() if name not in UNCHANGED})
    request = REQUEST.model_copy(update={**CHANGES, "serve_as": None, "grader": None, "validation_file": FILE})
    assert key_of(SPEC) == "run/1:c7c2411ecd80b313d9b163e176d78000f5e690d1f250bd35a3e4c4eddd78be9e"
    assert (
        key_of(spec, validation_sha256="1" * 64)
        == "run/1:eff5f8789348a6f1187ddbdf588041831408c364681e4a324594d001de2457cc"
    )
    assert request_digest(REQUEST) == "request/1:d1b35aa344a754ac3a93e367c6db1301b9ad0703421ddba99f91a05cf5a7a777"
    assert request_digest(request) == "request/1:533b174d4e40ed229f5d49cf0e2b6dcef31286b13af89c3666353cd70ba239b2"
    answer = Request(model="m", messages=({"role": "user", "content": "é"},), sampling=SamplingParams())
    assert answer.key == "answer/1:5e6bf8cba933472f8fe7b977b7e918a0624c0a295f58ec36d09c1a8a0c51c967"


@pytest.mark.parametrize("name", CHANGES)
def test_keys_differ_by_value(name: str) -> None:
    """Of every field that changes what is paid for."""
    update = {name: CHANGES[name]}
    assert key_of(SPEC.model_copy(update=update)) != key_of(SPEC)
    assert request_digest(REQUEST.model_copy(update=update)) != request_digest(REQUEST)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 3),
        ("batch_size", 4),
        ("learning_rate_multiplier", 0.5),
        ("beta", 0.1),
        ("extra", {"packing": True}),
        ("learning_rate", 1e-3),
        ("lora_r", 16),
        ("lora_alpha", 32),
        ("lora_dropout", 0.0),
        ("target_modules", "all-linear"),
    ],
)
def test_keys_differ_by_hyperparameter(name: str, value: object) -> None:
    """Each of them."""
    update = {"hyperparameters": Hyperparameters.model_validate({name: value})}
    assert key_of(SPEC.model_copy(update=update)) != key_of(SPEC)
    assert request_digest(REQUEST.model_copy(update=update)) != request_digest(REQUEST)


def test_keys_differ_by_file_and_endpoint() -> None:
    """By content; where the file lies and which id it has says nothing."""
    keys = [key_of(SPEC), key_of(SPEC, endpoint="f"), key_of(SPEC, dataset_sha256="1" * 64)]
    keys.append(key_of(SPEC, validation_sha256="1" * 64))
    assert len(set(keys)) == 4
    elsewhere = {"data": Path("b.jsonl"), "provider": "other", "requested_model": "gpt-4o-mini"}
    assert key_of(SPEC.model_copy(update=elsewhere)) == keys[0]
    moved, other = FILE.model_copy(update={"id": "file-2"}), FILE.model_copy(update={"sha256": "1" * 64})
    files = [{"training_file": moved}, {"training_file": other}, {"validation_file": other}]
    same, *others = (request_digest(REQUEST.model_copy(update=update)) for update in files)
    assert same == request_digest(REQUEST)
    assert len({same, *others}) == 3


def later(record: Record, kind: type[Record], **changes: Any) -> Any:
    """The same record as a later version has it."""
    return kind.model_validate({**{name: getattr(record, name) for name in type(record).model_fields}, **changes})


def test_keys_ignore_new_field_at_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is entered in the lists, and when it is; another value is part of the key then."""
    hyperparameters = LaterHyperparameters()
    spec = later(SPEC, LaterSpec, hyperparameters=hyperparameters)
    request = later(REQUEST, LaterRequest, hyperparameters=hyperparameters)
    assert isinstance(spec.hyperparameters, LaterHyperparameters)
    before = [key_of(SPEC), request_digest(REQUEST)]
    assert [key_of(spec), request_digest(request)] == before

    for name, field, default in (
        ("RUN_FIELDS", "packing", False),
        ("REQUEST_FIELDS", "packing", False),
        ("HYPERPARAMETER_FIELDS", "warmup_steps", 0),
    ):
        known: KeyFields = getattr(keys_module, name)
        extended = KeyFields(
            always=known.always, added={field: default}, separate=known.separate, ignored=known.ignored
        )
        monkeypatch.setattr(keys_module, name, extended)
    assert [key_of(SPEC), request_digest(REQUEST)] == before
    assert [key_of(spec), request_digest(request)] == before
    changes: list[dict[str, Any]] = [{"packing": True}, {"hyperparameters": LaterHyperparameters(warmup_steps=5)}]
    for update in changes:
        assert key_of(spec.model_copy(update=update)) != before[0]
        assert request_digest(request.model_copy(update=update)) != before[1]
