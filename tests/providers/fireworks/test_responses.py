"""Jobs, metrics and prices of Fireworks as ftpipe's records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftpipe.errors import InvalidResponseError
from ftpipe.providers.fireworks.responses import STATUSES, events_of, job_of, money_of, status_of, unix_seconds
from ftpipe.records import Job, Method
from ftpipe.records.job import TERMINAL_STATUSES
from tests.fakes.fireworks import DESCRIPTION

PARENT = "accounts/acme"
JOB = {
    "name": f"{PARENT}/supervisedFineTuningJobs/ftpipe-sft-1",
    "dataset": f"{PARENT}/datasets/ftpipe-1",
    "state": "JOB_STATE_RUNNING",
    "baseModel": "accounts/fireworks/models/qwen3-8b",
    "createTime": "2026-11-28T10:00:00.123456789Z",
}


def job(**fields: Any) -> Job:
    return job_of({**JOB, **fields}, endpoint="e", provider="fireworks", parent=PARENT)


def described_states() -> list[str]:
    """The states of a job in the published description."""
    document = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    return list(document["components"]["schemas"]["SupervisedFineTuningJob"]["properties"]["state"]["enum"])


def test_status_of_knows_every_described_state() -> None:
    """Nothing but the state that means nothing is unknown, and no state stands twice."""
    words = {state.removeprefix("JOB_STATE_") for state in described_states()}
    assert words - STATUSES.keys() == {"UNSPECIFIED"}
    assert STATUSES.keys() - words == set()


@pytest.mark.parametrize("state", described_states())
def test_status_of_reads_states_without_prefix(state: str) -> None:
    """Older answers lack it."""
    assert status_of(state) == status_of(state.removeprefix("JOB_STATE_"))


@pytest.mark.parametrize("state", ["JOB_STATE_UNSPECIFIED", "JOB_STATE_MELTING", "SUCCEEDED", "JOB_STATE_QUEUED"])
def test_status_of_unknown_state_is_neither_running_nor_ended(state: str) -> None:
    status = status_of(state)
    assert status not in TERMINAL_STATUSES | {"running", "queued", "validating_files"}
    assert not job(state=state).is_finished


@pytest.mark.parametrize("state", [None, "", 7])
def test_job_without_state_is_invalid(state: object) -> None:
    with pytest.raises(InvalidResponseError):
        job(state=state)


@pytest.mark.parametrize("name", ["", None, "accounts/acme/jobs", "accounts/acme/supervisedFineTuningJobs/../x", "x"])
def test_job_without_name_is_invalid(name: object) -> None:
    with pytest.raises(InvalidResponseError):
        job(name=name)


def test_job_of_completed_job_has_full_model_name() -> None:
    assert job(state="COMPLETED", outputModel="mine").fine_tuned_model == f"{PARENT}/models/mine"
    assert job(state="COMPLETED", outputModel=f"{PARENT}/models/mine").fine_tuned_model == f"{PARENT}/models/mine"
    assert job(state="JOB_STATE_EARLY_STOPPED").fine_tuned_model == f"{PARENT}/models/ftpipe-sft-1"
    assert job(outputModel="mine").fine_tuned_model is None


def test_job_of_reads_hyperparameters_and_times() -> None:
    read = job(epochs=3, batchSizeSamples=8, learningRate=1e-4, loraRank=16, maxContextLength=8192)
    assert read.resolved is not None
    assert (read.resolved.n_epochs, read.resolved.batch_size, read.resolved.learning_rate) == (3, 8, 1e-4)
    assert (read.resolved.lora_r, read.resolved.extra) == (16, {"maxContextLength": 8192})
    assert (read.created_at, read.training_file, read.method) == (1795860000, "ftpipe-1", Method.SUPERVISED)


def test_job_of_dpo_job_reads_its_training_config() -> None:
    read = job(
        name=f"{PARENT}/dpoJobs/ftpipe-dpo-1",
        state="JOB_STATE_COMPLETED",
        baseModel=None,
        trainingConfig={"baseModel": JOB["baseModel"], "outputModel": "mine", "epochs": 1},
        lossConfig={"method": "DPO", "dpo": {"beta": 0.2}},
    )
    assert (read.method, read.model, read.fine_tuned_model) == (Method.DPO, JOB["baseModel"], f"{PARENT}/models/mine")
    assert read.resolved is not None
    assert (read.resolved.n_epochs, read.resolved.beta) == (1, 0.2)


def test_job_of_failed_job_has_its_status_as_error() -> None:
    read = job(state="JOB_STATE_FAILED", status={"code": "INVALID_ARGUMENT", "message": "row 7 has no answer"})
    assert read.error is not None
    assert (read.error.code, read.error.message) == ("INVALID_ARGUMENT", "row 7 has no answer")
    assert job(status={"code": "OK"}).error is None


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ({"currencyCode": "USD", "units": "12", "nanos": 500_000_000}, (12.5, "USD")),
        ({"units": "0", "nanos": 750_000_000}, (0.75, "USD")),
        ({"currencyCode": "EUR", "units": "3"}, (3.0, "EUR")),
        ({}, None),
        (None, None),
        ({"units": "many"}, None),
        ({"units": "-1", "nanos": -750_000_000}, None),
    ],
)
def test_money_of_adds_units_and_nanos(value: object, amount: object) -> None:
    assert money_of(value) == amount


@pytest.mark.parametrize("value", [None, "", "yesterday", 7, "9999999-01-01T00:00:00Z"])
def test_unix_seconds_of_no_time(value: object) -> None:
    assert unix_seconds(value) is None


BESIDE = {"step": 1, "train/step": 1, "train/loss": 1.5, "train/lr": 1e-4}
INSIDE = {"step": 2, "timestamp": 1795860005.9, "data": {"train/loss": 1.25, "eval/loss": 1.75}}


def test_events_of_reads_both_forms_of_metrics() -> None:
    """Values beside the step, and under ``data``; other lines are left out, and a step that comes twice is one."""
    text = "\n".join([json.dumps(BESIDE), "not json", "[]", '{"step": null}', json.dumps(INSIDE), json.dumps(INSIDE)])
    events = events_of(JOB, text)
    assert [event.data for event in events] == [
        {"step": 1, "train_loss": 1.5},
        {"step": 2, "train_loss": 1.25, "valid_loss": 1.75},
    ]
    assert [event.id for event in events] == ["ftpipe-sft-1-step-1", "ftpipe-sft-1-step-2"]
    assert events[1].created_at == 1795860005


def test_events_of_tells_estimate_and_failure() -> None:
    fields = {
        **JOB,
        "state": "JOB_STATE_FAILED",
        "estimatedCost": {"currencyCode": "USD", "units": "1", "nanos": 250_000_000},
        "status": {"code": "INTERNAL", "message": "a node was lost"},
    }
    messages = [(event.level, event.message) for event in events_of(fields, None)]
    assert messages == [("info", "the provider estimates the cost at 1.25 USD"), ("error", "a node was lost")]
