"""Keys that decide whether something is paid for again: of a run, of a request for a job, of an answer.

The same request must have the same key in every later version of ftpipe; with another key the same ``train`` would be
a second paid job. So each key is made of fields that are listed here by name, in canonical JSON, and begins with the
version of its list.

A field that is added to one of these records has to be entered here, which
``tests/records/test_idempotency_keys.py`` checks:

- It changes what is paid for: enter it in ``added``, with the default under which nothing changes. At that default it
  is left out, so that the keys of earlier versions stay; with any other value it is part of the key.
- It changes nothing of what is paid for: enter it in ``ignored``.

Whatever else changes the key of an old request (a field is renamed, removed, or gets another default) needs a new
version, and code that still finds runs and requests by their old keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.records.base import Record
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS, REINFORCEMENT_HYPERPARAMETERS, JobRequest
from ftpipe.records.run import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFields:
    """Which fields of a record are part of a key."""

    always: tuple[str, ...]
    """Fields of the first version, whatever their value."""
    added: Mapping[str, object] = field(default_factory=dict)
    """Field that was added later → the default, as JSON, at which it is left out."""
    separate: tuple[str, ...] = ()
    """Fields that are part of the key in a form of their own."""
    ignored: tuple[str, ...] = ()
    """Fields that change nothing of what is paid for."""

    @property
    def names(self) -> frozenset[str]:
        """Every field that was decided on."""
        return frozenset((*self.always, *self.added, *self.separate, *self.ignored))

    def values(self, record: Record) -> dict[str, Any]:
        """The fields that are part of the key, as JSON values."""
        values = record.model_dump(mode="json", include={*self.always, *self.added})
        return {
            name: value
            for name, value in values.items()
            if name in self.always or canonical_json(value) != canonical_json(self.added[name])
        }


RUN_FIELDS = KeyFields(
    always=("model", "method", "suffix", "seed", "integrations", "metadata"),
    added={"serve_as": None, "grader": None},
    separate=("hyperparameters",),
    ignored=(
        *("provider", "data", "validation"),  # the endpoint and the digests of the files stand for them
        "requested_model",  # the model that is trained in its place is part of the key
        "predecessor",
    ),
)
REQUEST_FIELDS = KeyFields(
    always=("model", "method", "suffix", "seed", "integrations", "metadata"),
    added={"serve_as": None, "grader": None},
    separate=("hyperparameters", "training_file", "validation_file"),
)
HYPERPARAMETER_FIELDS = KeyFields(
    always=("n_epochs", "batch_size", "learning_rate_multiplier", "beta", "extra"),
    added=dict.fromkeys((*EXTENDED_HYPERPARAMETERS, *REINFORCEMENT_HYPERPARAMETERS)),
)
EVALUATION_SAMPLING_FIELDS = KeyFields(
    always=("temperature", "max_tokens", "seed", "samples"),
)
ANSWER_SAMPLING_FIELDS = KeyFields(
    always=("temperature", "max_tokens"),
    separate=("seed",),  # each sample has its own
    ignored=("samples",),
)


def run_key(spec: RunSpec, *, endpoint: str, dataset_sha256: str, validation_sha256: str | None) -> str:
    """The key of a run: the same data and parameters at the same endpoint are the same run.

    Args:
        spec: The spec of the run, with its method.
        endpoint: Fingerprint of the endpoint.
        dataset_sha256: Digest of the training file.
        validation_sha256: Digest of the validation file, if there is one.
    """
    return versioned_digest(
        "run/1",
        {
            "endpoint": endpoint,
            "dataset_sha256": dataset_sha256,
            "validation_sha256": validation_sha256,
            "spec": RUN_FIELDS.values(spec),
            "hyperparameters": HYPERPARAMETER_FIELDS.values(spec.hyperparameters),
        },
    )


def request_digest(request: JobRequest) -> str:
    """The digest of a request for a job, with files by content: another id for the same bytes is the same request."""
    return versioned_digest(
        "request/1",
        {
            "dataset_sha256": request.training_file.sha256,
            "validation_sha256": request.validation_file.sha256 if request.validation_file else None,
            "request": REQUEST_FIELDS.values(request),
            "hyperparameters": HYPERPARAMETER_FIELDS.values(request.hyperparameters),
        },
    )


def attempt_key(key: str, number: int) -> str:
    """The key of the next job of a key whose earlier jobs have ended without a model; ``number`` counts from 1.

    It is for hosts where a job's id is made of its key, and an id cannot be used twice.
    """
    return key if number == 1 else f"{key}\n{number}"


def versioned_digest(version: str, parts: object) -> str:
    """``version``, a colon, and the SHA-256 of JSON values in hexadecimal."""
    return f"{version}:{hashlib.sha256(canonical_json(parts)).hexdigest()}"
