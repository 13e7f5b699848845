"""The JSON output of the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ftpipe.errors import (
    ConnectionFailedError,
    OutcomeUnknownError,
    ProviderError,
    QuotaError,
    StillRunningError,
    UsageError,
)
from ftpipe.records import TrainingMetrics
from ftpipe.reports.json_output import dump, envelope, error_object


def test_envelope_starts_with_schema_and_ok() -> None:
    document = envelope("models.list", {"models": []})
    assert list(document.items())[:2] == [("schema", "ftpipe.models.list/1"), ("ok", True)]
    assert envelope("doctor", {}, ok=False)["ok"] is False


def test_error_object_states_retryable_and_paid() -> None:
    """A program can decide by the document alone."""
    document = envelope("train", {"run": 1}, OutcomeUnknownError("lost", "ftpipe resume"))
    assert document["ok"] is False
    assert document["run"] == 1
    assert document["error"] == {
        "code": "outcome_unknown",
        "message": "lost",
        "hint": "ftpipe resume",
        "retryable": False,
        "paid": "unknown",
    }
    retryable = [ConnectionFailedError("x"), ProviderError("x"), StillRunningError("x")]
    assert [error_object(error)["retryable"] for error in [*retryable, QuotaError("x"), UsageError("x")]] == [
        True
    ] * 3 + [False] * 2


def test_dump_writes_ascii_json_with_finite_numbers() -> None:
    text = dump(
        {
            "a": math.nan,
            "b": [math.inf, 1.5],
            "c": TrainingMetrics(step=1, train_loss=math.nan),
            "d": Path("x"),
            "e": "\x1b\u202e",
        }
    )
    data = json.loads(text)
    assert data["a"] is data["b"][0] is data["c"]["train_loss"] is None
    assert (data["b"][1], data["d"], data["e"]) == (1.5, "x", "\x1b\u202e")
    assert text.isascii()
    assert "\x1b" not in text
