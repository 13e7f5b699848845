"""The pipeline: six stages, one paid job, and it takes up where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ftpipe.errors import CostLimitError, DatasetError, JobFailedError, TrainingNotAvailableError, UsageError
from ftpipe.pipeline.adopt import adopt
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.pipeline import Pipeline
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
from ftpipe.registry import open_registry
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI, Fault
from tests.fakes.records import cost_of, dataset_at, provider_over, report_of, spec_of


class SimulatedCrash(BaseException):
    """A kill: nothing in the product may catch it."""


class CrashingObserver(PipelineObserver):
    """Dies at the n-th thing that it hears."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.heard: list[str] = []

    def _step(self, name: str) -> None:
        self.heard.append(name)
        self.left -= 1
        if self.left == 0:
            raise SimulatedCrash(name)

    def on_stage(self, name: str) -> None:
        """A named step."""
        self._step(name)

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """A named step."""
        self._step(f"{stage} bytes")

    def on_job(self, job: Job) -> None:
        """A named step."""
        self._step(f"job {job.status}")

    def on_metric(self, metric: TrainingMetrics) -> None:
        """A named step."""
        self._step("metric")


class Harness:
    """One endpoint and one registry, and as many pipelines over them as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = FakeOpenAI()
        self.clock = Clock()
        self.dataset = dataset_at(folder / "a.jsonl")
        self.validation = dataset_at(folder / "v.jsonl", b'{"messages": [1]}\n')
        self.spec = spec_of(self.dataset, validation=self.validation)
        self.report = report_of(self.dataset, validation=self.validation)

    def pipeline(self, observer: PipelineObserver | None = None) -> Pipeline:
        """A pipeline as a new process would open it."""
        registry = open_registry(self.folder / "registry.db")
        provider = provider_over(self.client, self.clock)
        return Pipeline(
            provider=provider, registry=registry, observer=observer, sleep=self.clock.sleep, clock=self.clock
        )

    def run(self, observer: PipelineObserver | None = None, **start: bool) -> Run:
        """Everything from the report to the model."""
        pipeline = self.pipeline(observer)
        return pipeline.advance(self.start(pipeline, **start))

    def start(self, pipeline: Pipeline, **start: bool) -> Run:
        """The run that the pipeline advances."""
        return pipeline.start(pipeline.plan_for(self.spec, self.report), **start)


@pytest.fixture
def bench(tmp_path: Path) -> Harness:
    """A fresh bench."""
    return Harness(tmp_path)


def test_a_run_ends_with_a_registered_model(bench: Harness) -> None:
    """With both files, the job's metadata, its metrics and its cost."""
    run = bench.run()
    assert run.state == RunState.REGISTERED
    assert run.model is not None
    assert run.model.metrics is not None
    assert run.model.metrics.train_loss == pytest.approx(1 / 3)
    assert len(bench.client.stored_files) == 2
    assert bench.client.bodies[0]["metadata"]["ftpipe_run"] == run.id


def test_asking_for_the_same_again_gives_the_same_model_for_nothing(bench: Harness) -> None:
    """Same data and parameters: same run."""
    assert bench.run().id == bench.run().id
    assert len(bench.client.stored_jobs) == 1


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


def upgrade(bench: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the records have fields that they had not when the run was started."""
    monkeypatch.setattr("ftpipe.registry.runs.RunSpec", LaterSpec)
    monkeypatch.setattr("ftpipe.pipeline.pipeline.JobRequest", LaterRequest)
    bench.spec = LaterSpec.model_validate_json(bench.spec.model_dump_json())


def test_an_upgrade_that_adds_fields_finds_the_run_and_pays_nothing(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same `train` after an upgrade is the same run."""
    before = bench.run()
    upgrade(bench, monkeypatch)
    after = bench.run()
    assert isinstance(after.spec, LaterSpec)
    assert (after.id, after.state) == (before.id, RunState.REGISTERED)
    assert bench.client.calls["jobs.create"] == 1


@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize("command", ["train", "resume"])
def test_an_upgrade_in_the_middle_of_a_paid_call_makes_no_second_job(
    bench: Harness, monkeypatch: pytest.MonkeyPatch, executed: bool, command: str
) -> None:
    """Killed during the call, then upgraded: the job is found, or, if none was made, requested again."""
    bench.client.fail("jobs.create", Fault(error=KeyboardInterrupt(), executed=executed))  # type: ignore[arg-type]  # a kill
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    upgrade(bench, monkeypatch)
    run = bench.run() if command == "train" else bench.pipeline().resume()
    assert run.state == RunState.REGISTERED
    assert len(bench.client.stored_jobs) == 1
    assert bench.client.calls["jobs.create"] == (1 if executed else 2)
    assert [found.id for found in bench.pipeline().registry.runs()] == [run.id]


def test_the_key_of_a_paid_call_does_not_change(bench: Harness) -> None:
    """It is at endpoints: with another one the same command would be paid for again."""
    bench.run()
    assert (
        bench.client.bodies[0]["metadata"]["ftpipe_key"]
        == "c7d4d464c118dc41e01aec53c6a834bcdfec3a4cd951e6abd0f133086949779e"
    )


def test_again_makes_a_new_job_from_the_same_files(bench: Harness) -> None:
    """One more job, no more files."""
    assert bench.run().id != bench.run(force_new=True).id
    assert (len(bench.client.stored_jobs), len(bench.client.stored_files)) == (2, 2)


def test_other_parameters_are_another_run(bench: Harness) -> None:
    """The suffix alone is enough."""
    bench.run()
    bench.spec = bench.spec.model_copy(update={"suffix": "other"})
    bench.run()
    assert len(bench.client.stored_jobs) == 2


def test_a_kill_between_any_two_steps_leaves_one_job_one_file_each_and_one_model(tmp_path: Path) -> None:
    """Every step is the last one once; the next start always ends well."""
    steps = CrashingObserver(10**9)
    Harness(tmp_path_of(tmp_path, "dry")).run(steps)
    assert len(steps.heard) > 10
    for number in range(1, len(steps.heard) + 1):
        bench = Harness(tmp_path_of(tmp_path, str(number)))
        with pytest.raises(SimulatedCrash):
            bench.run(CrashingObserver(number))
        run = bench.run()
        assert run.state == RunState.REGISTERED
        assert (len(bench.client.stored_jobs), len(bench.client.stored_files)) == (1, 2)
        assert len(bench.pipeline().registry.models()) == 1


def tmp_path_of(folder: Path, name: str) -> Path:
    """A folder of that name."""
    place = folder / name
    place.mkdir()
    return place


def test_resume_goes_on_without_the_data_file_once_the_job_exists(bench: Harness) -> None:
    """The job does not need it any more."""
    pipeline = bench.pipeline()
    run = pipeline.advance(bench.start(pipeline), wait=False)
    bench.dataset.path.unlink()
    assert bench.pipeline().resume(run.id).state == RunState.REGISTERED
    assert bench.pipeline().resume().id == run.id


def test_two_at_once_make_one_job_and_both_end_well(bench: Harness) -> None:
    """The second waits for the first to create, then both poll."""

    def go(_number: int) -> Run:
        return bench.run()

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(go, range(4)))
    assert {run.state for run in runs} == {RunState.REGISTERED}
    assert len(bench.client.stored_jobs) == 1


def test_a_failed_job_fails_the_run_and_asking_again_makes_a_new_job(bench: Harness) -> None:
    """Exit code 1 with the endpoint's words; the next try is a new request."""
    bench.client.statuses = ["running", "failed"]
    with pytest.raises(JobFailedError, match="line 3 has no role"):
        bench.run()
    latest = bench.pipeline().registry.latest_run()
    assert latest is not None
    assert latest.state == RunState.FAILED
    bench.client.statuses = ["succeeded"]
    assert bench.run().state == RunState.REGISTERED
    assert len(bench.client.stored_jobs) == 2


def test_broken_data_stops_before_anything_is_sent(bench: Harness) -> None:
    """The report goes with the error."""
    finding = Finding(code="FT204", name="missing-role", severity=Severity.ERROR, line=3, message="no role")
    bench.report = bench.report.model_copy(update={"findings": (finding,), "summary": Summary(errors=1)})
    with pytest.raises(DatasetError, match="first at line 3") as caught:
        bench.run()
    assert caught.value.report == bench.report
    assert bench.client.calls == {}


@pytest.mark.parametrize(("high", "limit", "refused"), [(0.02, 0.01, True), (0.02, 0.02, False), (None, 5.0, True)])
def test_the_budget_is_kept_and_an_unknown_price_does_not_pass(high: float | None, limit: float, refused: bool) -> None:
    """The high end counts."""
    assert isinstance(budget_blocker(cost_of(high), limit), CostLimitError) == refused


def test_a_method_or_suffix_that_the_endpoint_does_not_take_is_refused_before_the_upload(bench: Harness) -> None:
    """With what it takes."""
    for update in ({"method": Method.REINFORCEMENT}, {"suffix": "x" * 65}):
        with pytest.raises(UsageError):
            pipeline = bench.pipeline()
            pipeline.start(pipeline.plan_for(bench.spec.model_copy(update=update), bench.report))
    assert bench.client.calls == {}


def test_after_the_last_day_no_job_is_asked_for(bench: Harness) -> None:
    """OpenAI takes none after 2027-01-06."""
    bench.clock.now = datetime(2027, 1, 7, tzinfo=UTC).timestamp()
    with pytest.raises(TrainingNotAvailableError, match="2027-01-06"):
        bench.run()


def test_refresh_takes_one_look_and_registers_what_has_succeeded(bench: Harness) -> None:
    """As ``ftpipe status`` does."""
    pipeline = bench.pipeline()
    run = pipeline.advance(bench.start(pipeline), wait=False)
    states: list[RunState] = []
    for _ in range(3):
        run = pipeline.refresh(run)
        states.append(run.state)
    assert states == [RunState.CREATED, RunState.CREATED, RunState.REGISTERED]


def test_a_job_made_elsewhere_is_adopted_and_its_model_registered(bench: Harness) -> None:
    """With its file's digest, read from the endpoint."""
    provider = provider_over(bench.client, bench.clock)
    file = provider.files.upload(bench.dataset.path, filename="theirs.jsonl", on_bytes=lambda _done: None)
    bench.client.seed_job(training_file=file.id)
    pipeline = bench.pipeline()
    run = adopt("ftjob-1", provider=pipeline.provider, registry=pipeline.registry)
    assert run.dataset_sha256 == bench.dataset.sha256
    done = pipeline.advance(run)
    assert done.model is not None
    assert done.model.job_id == "ftjob-1"
    assert adopt("ftjob-1", provider=pipeline.provider, registry=pipeline.registry).id == run.id


def test_a_library_user_needs_no_watcher(bench: Harness) -> None:
    """The quiet one hears everything and does nothing."""
    quiet = PipelineObserver()
    steps: list[Callable[[], None]] = [lambda: quiet.on_stage("x"), lambda: quiet.on_progress("x", 1, 2)]
    for step in steps:
        step()
    assert bench.run(quiet).state == RunState.REGISTERED
