"""The register stage: the model is saved with its lineage."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import JobFailedError, StillRunningError
from ftpipe.records import Job, JobError, Run, RunState, TrainingMetrics
from ftpipe.registry import Registry, open_registry
from ftpipe.stages.register import last_metrics, register
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.records import MODEL, cost_of, dataset_at, provider_over, spec_of

SUCCEEDED = Job(
    id="ftjob-1",
    endpoint="https://api.openai.com/v1",
    provider="openai",
    status="succeeded",
    model=MODEL,
    training_file="file-1",
    created_at=10,
    finished_at=70,
    fine_tuned_model="ft:x",
    trained_tokens=1200,
)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry of its own."""
    return open_registry(tmp_path / "registry.db")


@pytest.fixture
def run(tmp_path: Path, registry: Registry) -> Run:
    """A run whose job exists."""
    dataset = dataset_at(tmp_path / "a.jsonl")
    made = Run(
        id="run-1",
        spec=spec_of(dataset),
        endpoint=SUCCEEDED.endpoint,
        state=RunState.CREATED,
        created_at=1,
        dataset_sha256=dataset.sha256,
        dataset=dataset,
        cost=cost_of(),
        job=SUCCEEDED,
    )
    registry.jobs.save(SUCCEEDED, run_id=made.id)
    return registry.runs.start(made, key="k", ordinal=0)


def test_register_saves_lineage_cost_and_shutdown_date(run: Run, registry: Registry) -> None:
    """The chain of keys is whole, and the actual cost is trained tokens times price."""
    done = register(
        SUCCEEDED,
        run=run,
        provider=provider_over(FakeOpenAI()),
        registry=registry,
        metrics=[TrainingMetrics(step=3, train_loss=0.3)],
    )
    model = registry.models.get("ft:x")
    assert (model.job_id, model.file_id, model.dataset_sha256) == ("ftjob-1", "file-1", run.dataset_sha256)
    assert (model.actual_cost, model.base_shutdown_date) == (0.006, "2027-01-14")
    assert [checkpoint.step for checkpoint in model.checkpoints] == [2, 3]
    assert done.state == RunState.REGISTERED


def test_register_twice_changes_nothing(run: Run, registry: Registry) -> None:
    """One model, whoever comes second."""
    provider = provider_over(FakeOpenAI())
    for _ in range(2):
        register(SUCCEEDED, run=run, provider=provider, registry=registry, metrics=[])
    assert len(registry.models.recent()) == 1


def test_register_failed_job_reports_reason_and_hint(run: Run, registry: Registry) -> None:
    """The endpoint's words, and a hint by code."""
    error = JobError(code="invalid_n_examples", message="has 3 examples, 10 are needed")
    failed = SUCCEEDED.model_copy(update={"status": "failed", "error": error, "fine_tuned_model": None})
    with pytest.raises(JobFailedError, match="has 3 examples") as caught:
        register(failed, run=run, provider=provider_over(FakeOpenAI()), registry=registry, metrics=[])
    assert "ftpipe prepare" in caught.value.hint


def test_register_refuses_running_job(run: Run, registry: Registry) -> None:
    """It says how to wait."""
    running = SUCCEEDED.model_copy(update={"status": "running", "fine_tuned_model": None})
    with pytest.raises(StillRunningError):
        register(running, run=run, provider=provider_over(FakeOpenAI()), registry=registry, metrics=[])


def test_last_metrics_takes_last_value_of_each() -> None:
    """Validation is measured less often than training."""
    found = last_metrics(
        [TrainingMetrics(step=1, train_loss=2.0, valid_loss=1.5), TrainingMetrics(step=2, train_loss=1.0)]
    )
    assert found == TrainingMetrics(step=2, train_loss=1.0, valid_loss=1.5)
    assert last_metrics([]) is None
