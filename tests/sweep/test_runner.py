"""A sweep trains each point once, within its budget and across restarts, and names the best model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.errors import CostLimitError, JobFailedError, ProviderError, UsageError
from ftpipe.providers.retry import SAFE_ATTEMPTS
from ftpipe.records import CostEstimate, Model, Run, RunSpec, TrainingMetrics
from ftpipe.sweep.grid import parse_grid
from ftpipe.sweep.runner import MAX_FAILED_POLLS, SweepRunner, enforce_total_budget
from tests.fakes.harness import Harness, SimulatedCrash
from tests.fakes.openai_client import Fault, never_sent, status_error

GRID = ["epochs=1,3", "learning_rate_multiplier=0.5,2"]


class SweepHarness(Harness):
    """A harness with a dataset that can be validated, and a sweep over it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        data = folder / "train.jsonl"
        lines = [
            {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
            for n in range(12)
        ]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.spec = RunSpec(provider="openai", data=data, model="gpt-4.1-mini-2025-04-14")
        self.trials: list[tuple[str, str]] = []
        self.max_running = 0

    def runner(self, *, concurrency: int = 2, dies_at: int = 0) -> SweepRunner:
        """A sweep runner as a new process would open it."""

        def on_trial(name: str, run: Run) -> None:
            self.trials.append((name, run.state.value))
            if len(self.trials) == dies_at:
                raise SimulatedCrash

        def sleep(seconds: float) -> None:
            running = sum(job.status not in ("succeeded", "failed") for job in self.client.stored_jobs.values())
            self.max_running = max(self.max_running, running)
            self.clock.sleep(seconds)

        return SweepRunner(self.pipeline(), concurrency=concurrency, sleep=sleep, on_trial=on_trial)

    def sweep(self, runner: SweepRunner) -> dict[str, Run]:
        """The whole grid."""
        report = runner.pipeline.plan(self.spec).report
        return runner.train(runner.plan(self.spec, parse_grid(GRID), report))


@pytest.fixture
def harness(tmp_path: Path) -> SweepHarness:
    return SweepHarness(tmp_path)


def with_losses(runs: dict[str, Run], losses: list[float | None]) -> dict[str, Run]:
    """The runs with validation losses, in order."""
    changed = {}
    for (name, run), loss in zip(runs.items(), losses, strict=True):
        assert run.model is not None
        model = run.model.model_copy(update={"metrics": TrainingMetrics(step=3, valid_loss=loss)})
        changed[name] = run.model_copy(update={"model": model})
    return changed


def test_sweep_trains_each_point_once_and_uploads_once(harness: SweepHarness) -> None:
    """Four jobs, one file, and never more than two concurrent jobs."""
    runs = harness.sweep(harness.runner())
    assert len(runs) == len(harness.client.stored_jobs) == harness.client.calls["jobs.create"] == 4
    assert harness.client.calls["files.create"] == 1
    assert all(run.model is not None for run in runs.values())
    assert harness.max_running <= 2
    epochs = [body["method"]["supervised"]["hyperparameters"]["n_epochs"] for body in harness.client.bodies]
    assert epochs == [1, 1, 3, 3]


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_sweep_resumes_after_a_crash_without_retraining(harness: SweepHarness, dies_at: int) -> None:
    """Whenever it dies."""
    with pytest.raises(SimulatedCrash):
        harness.sweep(harness.runner(dies_at=dies_at))
    runs = harness.sweep(harness.runner())
    assert len(runs) == 4
    assert harness.client.calls["jobs.create"] == 4


def test_rank_trials_gives_alias_to_lowest_loss(harness: SweepHarness) -> None:
    """The trials come best first; NaN never wins."""
    runner = harness.runner()
    runs = with_losses(harness.sweep(runner), [0.9, float("nan"), 0.4, 0.7])
    sweep = runner.rank_trials(parse_grid(GRID), runs, alias="desk@best")
    assert [trial.valid_loss for trial in sweep.trials][:3] == [0.4, 0.7, 0.9]
    assert sweep.trials[0].name == "epochs=3 learning_rate_multiplier=0.5"
    assert runner.pipeline.registry.models.get("desk@best").id == sweep.best_model
    assert "best of 4 trials" in runner.pipeline.registry.models.alias_history("desk@best")[0].reason


def test_rank_trials_prefers_held_out_scores(harness: SweepHarness) -> None:
    runner = harness.runner()
    runs = with_losses(harness.sweep(runner), [0.1, 0.2, 0.3, 0.4])

    def scores(models: object) -> dict[str, float]:
        assert isinstance(models, list)
        return {model.id: index / 10 for index, model in enumerate(models) if isinstance(model, Model)}

    sweep = runner.rank_trials(parse_grid(GRID), runs, alias="desk@best", scores=scores)
    assert (sweep.compared_by, sweep.trials[0].score, sweep.trials[0].valid_loss) == ("held-out score", 0.3, 0.4)


def test_rank_trials_without_losses_moves_no_alias(harness: SweepHarness) -> None:
    """And the hint says that nothing is trained twice."""
    runner = harness.runner()
    runs = harness.sweep(runner)
    with pytest.raises(UsageError, match="no validation loss") as caught:
        runner.rank_trials(parse_grid(GRID), runs, alias="desk@best")
    assert "--validation" in caught.value.hint
    assert runner.pipeline.registry.models.aliases() == {}


def test_sweep_continues_after_failed_trials(harness: SweepHarness) -> None:
    """All fail here: each one is tried, and the result is an error."""
    harness.client.statuses = ["running", "failed"]
    runner = harness.runner()
    runs = harness.sweep(runner)
    assert {run.state.value for run in runs.values()} == {"failed"}
    with pytest.raises(JobFailedError, match="no trial of the sweep"):
        runner.rank_trials(parse_grid(GRID), runs, alias="desk@best")


def test_sweep_continues_after_a_rejected_trial(harness: SweepHarness) -> None:
    """The endpoint rejects one combination."""
    harness.client.fail_next("jobs.create", Fault(status_error(400)))
    runs = harness.sweep(harness.runner(concurrency=1))
    assert sum(run.model is not None for run in runs.values()) == 3


def test_sweep_retries_failed_polls(harness: SweepHarness) -> None:
    harness.client.fail_next("jobs.retrieve", *[Fault(never_sent()) for _ in range(8)])
    assert len(harness.sweep(harness.runner())) == 4


def test_sweep_stops_after_too_many_failed_polls(harness: SweepHarness) -> None:
    """Nothing is lost: the same sweep again trains nothing twice."""
    harness.client.fail_next("jobs.retrieve", *[Fault(never_sent()) for _ in range(SAFE_ATTEMPTS * MAX_FAILED_POLLS)])
    with pytest.raises(ProviderError, match=f"{MAX_FAILED_POLLS} polls in a row") as caught:
        harness.sweep(harness.runner())
    assert "the same sweep" in caught.value.hint
    assert len(harness.sweep(harness.runner())) == harness.client.calls["jobs.create"] == 4


def test_total_budget_covers_all_trials() -> None:
    """Two of 3 USD are over 5; one without a price cannot be counted."""

    def cost(high: float | None) -> CostEstimate:
        return CostEstimate(
            model="m", epochs=1, epochs_low=1, epochs_high=1, epochs_rule="requested", tokens_per_epoch=1, low=high,
            expected=high, high=high, price_per_million=1, price_as_of=None, source="x",
        )  # fmt: skip

    enforce_total_budget([cost(3), cost(3)], 6)
    enforce_total_budget([cost(None)], None)
    with pytest.raises(CostLimitError, match=r"6\.00"):
        enforce_total_budget([cost(3), cost(3)], 5)
    with pytest.raises(CostLimitError, match="not known"):
        enforce_total_budget([cost(3), cost(None)], 5)
