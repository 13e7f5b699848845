"""The job directory: what the writer writes, the reader reads, and what a kill or an operator leaves is survived."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftpipe.errors import LocalStateError
from ftpipe.modeling.device import DeviceConfig
from ftpipe.records.job import TrainingMetrics
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory, JobSpec, Progress, TrainingPlan, WorkerConfig

SPEC = JobSpec(
    job_id="ftjob-1",
    method="dpo",
    base_model="org/base",
    training_file=Path("/jobs/training.jsonl"),
    validation_file=None,
    hyperparameters={"n_epochs": 2, "batch_size": "auto"},
    seed=7,
    model_name="ft:base:local::1",
    models_dir=Path("/models"),
    keep_checkpoints=5,
    initial_adapter=Path("/jobs/initial_adapter"),
    worker_config=WorkerConfig("ray", 2, "10.0.0.1:6379"),
)
PLAN = TrainingPlan(DeviceConfig("cpu", "float32"), ResolvedHyperparameters(2, 4, 1.0, 1e-3, beta=0.1))


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    return JobDirectory(tmp_path)


def test_job_directory_spec_round_trip(directory: JobDirectory) -> None:
    directory.write_spec(SPEC)
    assert directory.read_spec() == SPEC


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"job_id": "x"}'])
def test_job_directory_refuses_unreadable_spec(directory: JobDirectory, content: str | None) -> None:
    if content is not None:
        directory.spec_file.write_text(content)
    with pytest.raises(LocalStateError, match=r"spec\.json cannot be read"):
        directory.read_spec()


def test_job_directory_spec_keeps_at_least_one_checkpoint(directory: JobDirectory) -> None:
    directory.write_spec(replace(SPEC, keep_checkpoints=0))
    assert directory.read_spec().keep_checkpoints == 1


def test_job_directory_plan_round_trip(directory: JobDirectory) -> None:
    assert directory.read_plan() is None
    directory.write_plan(PLAN)
    assert directory.read_plan() == PLAN
    directory.plan_file.write_text('{"device_config": {}}')
    with pytest.raises(LocalStateError, match=r"plan\.json cannot be read"):
        directory.read_plan()


def test_job_directory_events_are_read_once_and_complete(directory: JobDirectory) -> None:
    assert directory.read_events(0) == ([], 0)
    directory.append_event("first", data={"step": 1}, event_type="metrics")
    events, offset = directory.read_events(0)
    assert [(event.message, event.type, event.level, event.data) for event in events] == [
        ("first", "metrics", "info", {"step": 1})
    ]
    with directory.events_file.open("a") as file:
        file.write('{"created_at": 1, "mess')
    assert directory.read_events(offset) == ([], offset)
    directory.append_event("second", level="warn")
    later, end = directory.read_events(offset)
    assert [(event.message, event.level) for event in later] == [("second", "warn")]
    assert end == directory.events_file.stat().st_size
    assert directory.reported_events() == (1, frozenset({"first", "second"}))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"created_at": 1, "message": "m", "level": "loud", "type": "odd", "data": {"x": float("nan")}}, True),
        ({"message": "m"}, False),
        ({"created_at": "now", "message": "m"}, False),
        (["created_at"], False),
    ],
)
def test_job_directory_reads_odd_events_safely(directory: JobDirectory, line: object, expected: bool) -> None:
    """Unknown levels and types become the usual ones, values that JSON does not have are left out."""
    directory.events_file.write_text(json.dumps(line) + "\n")
    events, _ = directory.read_events(0)
    assert [(event.level, event.type, event.data) for event in events] == [("info", "message", {})] * expected


def test_job_directory_progress_round_trip(directory: JobDirectory) -> None:
    assert directory.read_progress() == Progress()
    directory.write_progress(Progress("paused", 3, 6, 90, 1000, {"n_epochs": 2, "beta": None, "other": 1}, 12.5))
    assert directory.read_progress() == Progress("paused", 3, 6, 90, 1000, {"n_epochs": 2})


@pytest.mark.parametrize("value", [True, "3", None, float("inf"), [3]])
def test_job_directory_progress_ignores_values_that_are_not_integers(directory: JobDirectory, value: object) -> None:
    directory.progress_file.write_text(json.dumps({"step": value, "estimated_finish": value}))
    progress = directory.read_progress()
    assert (progress.step, progress.estimated_finish) == (0, None)


def test_job_directory_result_round_trip(directory: JobDirectory) -> None:
    assert directory.read_result() is None
    error = {"code": "invalid_training_file", "message": "m", "param": "training_file"}
    directory.write_result("failed", trained_tokens=0, step=0, error=error)
    result = directory.read_result()
    assert result is not None
    assert (result.succeeded, result.error, result.final_step) == (False, error, 0)
    directory.result_file.write_text('{"status": "failed", "error": {"code": 5}}')
    result = directory.read_result()
    assert result is not None
    assert result.error == {"code": "5", "message": "", "param": None}


def test_job_directory_checkpoint_appears_complete(directory: JobDirectory) -> None:
    for step in (2, 10, 4):
        with directory.new_checkpoint(TrainingMetrics(step=step, train_loss=1.5)) as scratch:
            (scratch / "adapter_model.safetensors").write_bytes(b"weights")
            assert not directory.checkpoint_dir(step).exists()
        assert directory.has_checkpoint(step)
    assert [checkpoint.step for checkpoint in directory.checkpoints()] == [2, 4, 10]
    assert directory.checkpoints()[0].metrics == {"step": 2, "train_loss": 1.5}
    assert {problem for _, problem in directory.verify_checkpoints()} == {""}
    directory.prune_checkpoints(2)
    assert [checkpoint.step for checkpoint in directory.checkpoints()] == [4, 10]
    assert JobDirectory.of_checkpoint(directory.checkpoint_dir(4)).path == directory.path


def test_job_directory_same_checkpoint_again_changes_nothing(directory: JobDirectory) -> None:
    for content in (b"first", b"second"):
        with directory.new_checkpoint(TrainingMetrics(step=3)) as scratch:
            (scratch / "adapter_model.safetensors").write_bytes(content)
    assert (directory.checkpoint_dir(3) / "adapter_model.safetensors").read_bytes() == b"first"
    assert [path.name for path in directory.checkpoints_dir.iterdir()] == ["step-3"]


def test_job_directory_remove_inputs_keeps_results(directory: JobDirectory) -> None:
    with directory.new_checkpoint(TrainingMetrics(step=3)) as scratch:
        (scratch / "adapter_model.safetensors").write_bytes(b"weights")
    directory.write_result("succeeded", trained_tokens=1, step=3)
    directory.training_file.write_text("{}")
    directory.initial_adapter.mkdir()
    directory.state_file.parent.mkdir()
    (directory.checkpoints_dir / "step-4").mkdir()
    (directory.path / ".spec.json.4711").write_text("{")
    directory.remove_inputs()
    assert sorted(path.name for path in directory.path.iterdir()) == ["checkpoints", "result.json"]
    assert [checkpoint.step for checkpoint in directory.checkpoints()] == [3]
