"""The pipeline: six stages, one paid job, and it continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ftpipe.errors import CostLimitError, DatasetError, JobFailedError, TrainingNotAvailableError, UsageError
from ftpipe.pipeline.adopt import adopt
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.preflight import budget_blocker
from ftpipe.records import (
    Finding,
    Hyperparameters,
    Job,
    JobRequest,
    Method,
    Run,
    RunSpec,
    RunState,
    Severity,
    Summary,
    TrainingMetrics,
)
from tests.fakes.harness import Harness, SimulatedCrash
from tests.fakes.openai_client import Fault
from tests.fakes.records import cost_of


class CrashingObserver(PipelineObserver):
    """Crashes at the n-th call."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.calls: list[str] = []

    def _count(self, name: str) -> None:
        self.calls.append(name)
        self.left -= 1
        if self.left == 0:
            raise SimulatedCrash(name)

    def on_stage(self, name: str) -> None:
        """Count the call."""
        self._count(name)

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Count the call."""
        self._count(f"{stage} bytes")

    def on_job(self, job: Job) -> None:
        """Count the call."""
        self._count(f"job {job.status}")

    def on_metric(self, metric: TrainingMetrics) -> None:
        """Count the call."""
        self._count("metric")


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """A fresh harness."""
    return Harness(tmp_path)


def test_pipeline_ends_with_registered_model(harness: Harness) -> None:
    """With both files, the job's metadata, its metrics and its cost."""
    run = harness.train()
    assert run.state == RunState.REGISTERED
    assert run.model is not None
    assert run.model.metrics is not None
    assert run.model.metrics.train_loss == pytest.approx(1 / 3)
    assert len(harness.client.stored_files) == 2
    assert harness.client.bodies[0]["metadata"]["ftpipe_run"] == run.id


def test_pipeline_same_request_reuses_run(harness: Harness) -> None:
    """Same data and parameters: same run."""
    assert harness.train().id == harness.train().id
    assert len(harness.client.stored_jobs) == 1


class LaterHyperparameters(Hyperparameters):
    """As a later version might have them."""

    warmup_steps: int = 0


class LaterSpec(RunSpec):
    """As a later version might have it."""

    packing: bool = False
    hyperparameters: LaterHyperparameters = LaterHyperparameters()


class LaterRequest(JobRequest):
    """As a later version might have it."""

    packing: bool = False


def upgrade(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the records have fields that they had not when the run was started."""
    monkeypatch.setattr("ftpipe.registry.runs.RunSpec", LaterSpec)
    monkeypatch.setattr("ftpipe.pipeline.pipeline.JobRequest", LaterRequest)
    harness.spec = LaterSpec.model_validate_json(harness.spec.model_dump_json())


def test_pipeline_upgrade_with_new_fields_finds_run(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same `train` after an upgrade is the same run."""
    before = harness.train()
    upgrade(harness, monkeypatch)
    after = harness.train()
    assert isinstance(after.spec, LaterSpec)
    assert (after.id, after.state) == (before.id, RunState.REGISTERED)
    assert harness.client.calls["jobs.create"] == 1


@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize("command", ["train", "resume"])
def test_pipeline_upgrade_during_paid_call_makes_no_second_job(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, executed: bool, command: str
) -> None:
    """Killed during the call, then upgraded: the job is found, or, if none was made, requested again."""
    harness.client.fail_next("jobs.create", Fault(error=KeyboardInterrupt(), executed=executed))  # type: ignore[arg-type]  # a kill
    with pytest.raises(KeyboardInterrupt):
        harness.train()
    upgrade(harness, monkeypatch)
    run = harness.train() if command == "train" else harness.pipeline().resume()
    assert run.state == RunState.REGISTERED
    assert len(harness.client.stored_jobs) == 1
    assert harness.client.calls["jobs.create"] == (1 if executed else 2)
    assert [found.id for found in harness.pipeline().registry.runs.recent()] == [run.id]


def test_operation_key_is_stable(harness: Harness) -> None:
    """It is at endpoints: with another one the same command would be paid for again."""
    harness.train()
    assert (
        harness.client.bodies[0]["metadata"]["ftpipe_key"]
        == "c7d4d464c118dc41e01aec53c6a834bcdfec3a4cd951e6abd0f133086949779e"
    )


def test_pipeline_force_new_makes_new_job_from_same_files(harness: Harness) -> None:
    """One more job, no more files."""
    assert harness.train().id != harness.train(force_new=True).id
    assert (len(harness.client.stored_jobs), len(harness.client.stored_files)) == (2, 2)


def test_pipeline_other_parameters_make_another_run(harness: Harness) -> None:
    """The suffix alone is enough."""
    harness.train()
    harness.spec = harness.spec.model_copy(update={"suffix": "other"})
    harness.train()
    assert len(harness.client.stored_jobs) == 2


def test_pipeline_crash_at_each_step_is_idempotent(tmp_path: Path) -> None:
    """Every step is the last one once; the next start always ends well."""
    steps = CrashingObserver(10**9)
    Harness(tmp_path / "dry").train(steps)
    assert len(steps.calls) > 10
    for number in range(1, len(steps.calls) + 1):
        harness = Harness(tmp_path / str(number))
        with pytest.raises(SimulatedCrash):
            harness.train(CrashingObserver(number))
        run = harness.train()
        assert run.state == RunState.REGISTERED
        assert (len(harness.client.stored_jobs), len(harness.client.stored_files)) == (1, 2)
        assert len(harness.pipeline().registry.models.recent()) == 1


def test_resume_needs_no_data_file_once_job_exists(harness: Harness) -> None:
    """The job does not need it any more."""
    pipeline = harness.pipeline()
    run = pipeline.advance(pipeline.start(harness.plan()), wait=False)
    harness.dataset.path.unlink()
    assert harness.pipeline().resume(run.id).state == RunState.REGISTERED
    assert harness.pipeline().resume().id == run.id


def test_pipeline_concurrent_runs_make_one_job(harness: Harness) -> None:
    """The second waits for the first to create, then both poll."""

    def go(_number: int) -> Run:
        return harness.train()

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(go, range(4)))
    assert {run.state for run in runs} == {RunState.REGISTERED}
    assert len(harness.client.stored_jobs) == 1


def test_pipeline_failed_job_fails_run_and_allows_new_one(harness: Harness) -> None:
    """Exit code 1 with the endpoint's words; the next try is a new request."""
    harness.client.statuses = ["running", "failed"]
    with pytest.raises(JobFailedError, match="line 3 has no role"):
        harness.train()
    latest = harness.pipeline().registry.runs.latest()
    assert latest is not None
    assert latest.state == RunState.FAILED
    harness.client.statuses = ["succeeded"]
    assert harness.train().state == RunState.REGISTERED
    assert len(harness.client.stored_jobs) == 2


def test_plan_with_dataset_errors_blocks_start(harness: Harness) -> None:
    """The report goes with the error."""
    finding = Finding(code="FT204", name="missing-role", severity=Severity.ERROR, line=3, message="no role")
    harness.report = harness.report.model_copy(update={"findings": (finding,), "summary": Summary(errors=1)})
    with pytest.raises(DatasetError, match="first at line 3") as caught:
        harness.train()
    assert caught.value.report == harness.report
    assert harness.client.calls == {}


@pytest.mark.parametrize(("high", "limit", "refused"), [(0.02, 0.01, True), (0.02, 0.02, False), (None, 5.0, True)])
def test_budget_blocker_refuses_high_or_unknown_cost(high: float | None, limit: float, refused: bool) -> None:
    """The high end counts."""
    assert isinstance(budget_blocker(cost_of(high), limit), CostLimitError) == refused


def test_plan_unsupported_method_or_suffix_blocks_start(harness: Harness) -> None:
    """With what it takes."""
    for update in ({"method": Method.REINFORCEMENT}, {"suffix": "x" * 65}):
        with pytest.raises(UsageError):
            pipeline = harness.pipeline()
            pipeline.start(pipeline.plan_for(harness.spec.model_copy(update=update), harness.report))
    assert harness.client.calls == {}


@pytest.mark.parametrize(
    "hyperparameters",
    [
        Hyperparameters(learning_rate=1e-3),
        Hyperparameters(lora_r=8),
        Hyperparameters(lora_alpha=8),
        Hyperparameters(lora_dropout=0),
        Hyperparameters(target_modules=("all-linear",)),
    ],
)
def test_plan_local_hyperparameters_block_start_at_hosted_endpoint(
    harness: Harness, hyperparameters: Hyperparameters
) -> None:
    """Before anything is sent, with the name and the flag; the embedded server takes them."""
    spec = harness.spec.model_copy(update={"hyperparameters": hyperparameters})
    pipeline = harness.pipeline()
    with pytest.raises(UsageError, match=r"OpenAI does not take \w+ \(--[a-z-]+\)"):
        pipeline.start(pipeline.plan_for(spec, harness.report))
    assert harness.client.calls == {}
    harness.profile = {"target": "local"}
    assert harness.pipeline().plan_for(spec, harness.report).blockers == ()


@pytest.mark.parametrize(
    "hyperparameters",
    [Hyperparameters(learning_rate=1e-3, learning_rate_multiplier=2), Hyperparameters(extra={"lora_r": 8})],
)
def test_plan_ambiguous_hyperparameters_block_start(harness: Harness, hyperparameters: Hyperparameters) -> None:
    """Of two values for one thing none is ignored silently."""
    harness.profile = {"target": "local"}
    spec = harness.spec.model_copy(update={"hyperparameters": hyperparameters})
    [blocker] = harness.pipeline().plan_for(spec, harness.report).blockers
    assert "learning rate" in blocker.message or "[hyperparameters.extra]" in blocker.message


def test_plan_after_last_day_blocks_start(harness: Harness) -> None:
    """OpenAI takes none after 2027-01-06."""
    harness.clock.now = datetime(2027, 1, 7, tzinfo=UTC).timestamp()
    with pytest.raises(TrainingNotAvailableError, match="2027-01-06"):
        harness.train()


def test_refresh_reads_job_once_and_registers_success(harness: Harness) -> None:
    """As ``ftpipe status`` does."""
    pipeline = harness.pipeline()
    run = pipeline.advance(pipeline.start(harness.plan()), wait=False)
    states: list[RunState] = []
    for _ in range(3):
        run = pipeline.refresh(run)
        states.append(run.state)
    assert states == [RunState.CREATED, RunState.CREATED, RunState.REGISTERED]


def test_adopt_registers_model_of_foreign_job(harness: Harness) -> None:
    """With its file's digest, read from the endpoint."""
    file = harness.provider.files.upload(harness.dataset.path, filename="theirs.jsonl", on_bytes=lambda _done: None)
    harness.client.seed_job(training_file=file.id)
    pipeline = harness.pipeline()
    run = adopt("ftjob-1", provider=pipeline.provider, registry=pipeline.registry)
    assert run.dataset_sha256 == harness.dataset.sha256
    done = pipeline.advance(run)
    assert done.model is not None
    assert done.model.job_id == "ftjob-1"
    assert adopt("ftjob-1", provider=pipeline.provider, registry=pipeline.registry).id == run.id


def test_pipeline_observer_default_ignores_everything(harness: Harness) -> None:
    """The base class ignores every call."""
    observer = PipelineObserver()
    steps: list[Callable[[], None]] = [lambda: observer.on_stage("x"), lambda: observer.on_progress("x", 1, 2)]
    for step in steps:
        step()
    assert harness.train(observer).state == RunState.REGISTERED
