"""A sweep trains each point once, within its budget, whatever stops it, and names the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.errors import CostLimitError, JobFailedError, UsageError
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import CostEstimate, Model, Run, RunSpec, TrainingMetrics
from ftpipe.registry import open_registry
from ftpipe.sweep.grid import parse_grid
from ftpipe.sweep.runner import SweepRunner, enforce_total_budget
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI, Fault, never_sent, status_error
from tests.fakes.records import provider_over

GRID = ["n_epochs=1,3", "learning_rate_multiplier=0.5,2"]


class SimulatedCrash(BaseException):
    """A kill: nothing in the product may catch it."""


class Harness:
    """One endpoint, one registry and one dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client, self.clock = FakeOpenAI(), Clock()
        data = folder / "train.jsonl"
        lines = [
            {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
            for n in range(12)
        ]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.spec = RunSpec(provider="openai", data=data, model="gpt-4.1-mini-2025-04-14")
        self.heard: list[tuple[str, str]] = []
        self.most = 0

    def sweeper(self, *, concurrency: int = 2, dies_at: int = 0) -> SweepRunner:
        """A sweeper as a new process would open it."""

        def hear(name: str, run: Run) -> None:
            self.heard.append((name, run.state.value))
            if len(self.heard) == dies_at:
                raise SimulatedCrash

        def sleep(seconds: float) -> None:
            under_way = sum(job.status not in ("succeeded", "failed") for job in self.client.stored_jobs.values())
            self.most = max(self.most, under_way)
            self.clock.sleep(seconds)

        registry = open_registry(self.folder / "registry.db")
        provider = provider_over(self.client, self.clock)
        pipeline = Pipeline(provider=provider, registry=registry, sleep=self.clock.sleep, clock=self.clock)
        return SweepRunner(pipeline, concurrency=concurrency, sleep=sleep, on_trial=hear)

    def train(self, sweeper: SweepRunner) -> dict[str, Run]:
        """The whole grid."""
        report = sweeper.pipeline.plan(self.spec).report
        return sweeper.train(sweeper.plan(self.spec, parse_grid(GRID), report))


@pytest.fixture
def bench(tmp_path: Path) -> Harness:
    """A fresh bench."""
    return Harness(tmp_path)


def with_losses(runs: dict[str, Run], losses: list[float | None]) -> dict[str, Run]:
    """The runs with validation losses, in order."""
    changed = {}
    for (name, run), loss in zip(runs.items(), losses, strict=True):
        assert run.model is not None
        model = run.model.model_copy(update={"metrics": TrainingMetrics(step=3, valid_loss=loss)})
        changed[name] = run.model_copy(update={"model": model})
    return changed


def test_every_point_is_trained_once_and_the_data_sent_once(bench: Harness) -> None:
    """Four jobs, one file, and never more than two jobs under way."""
    runs = bench.train(bench.sweeper())
    assert len(runs) == len(bench.client.stored_jobs) == bench.client.calls["jobs.create"] == 4
    assert bench.client.calls["files.create"] == 1
    assert all(run.model is not None for run in runs.values())
    assert bench.most <= 2
    epochs = [body["method"]["supervised"]["hyperparameters"]["n_epochs"] for body in bench.client.bodies]
    assert epochs == [1, 1, 3, 3]


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_a_killed_sweep_goes_on_and_trains_nothing_twice(bench: Harness, dies_at: int) -> None:
    """Whenever it dies."""
    with pytest.raises(SimulatedCrash):
        bench.train(bench.sweeper(dies_at=dies_at))
    runs = bench.train(bench.sweeper())
    assert len(runs) == 4
    assert bench.client.calls["jobs.create"] == 4


def test_the_lowest_validation_loss_wins_and_gets_the_alias(bench: Harness) -> None:
    """The trials come best first; a loss that is no number never wins."""
    sweeper = bench.sweeper()
    runs = with_losses(bench.train(sweeper), [0.9, float("nan"), 0.4, 0.7])
    sweep = sweeper.rank_trials(parse_grid(GRID), runs, alias="desk@best")
    assert [trial.valid_loss for trial in sweep.trials][:3] == [0.4, 0.7, 0.9]
    assert sweep.trials[0].name == "n_epochs=3 learning_rate_multiplier=0.5"
    assert sweeper.pipeline.registry.model("desk@best").id == sweep.best_model
    assert "best of 4 trials" in sweeper.pipeline.registry.alias_history("desk@best")[0].reason


def test_held_out_scores_decide_where_they_were_taken(bench: Harness) -> None:
    """Not the loss."""
    sweeper = bench.sweeper()
    runs = with_losses(bench.train(sweeper), [0.1, 0.2, 0.3, 0.4])

    def scores(models: object) -> dict[str, float]:
        assert isinstance(models, list)
        return {model.id: index / 10 for index, model in enumerate(models) if isinstance(model, Model)}

    sweep = sweeper.rank_trials(parse_grid(GRID), runs, alias="desk@best", scores=scores)
    assert (sweep.compared_by, sweep.trials[0].score, sweep.trials[0].valid_loss) == ("held-out score", 0.3, 0.4)


def test_without_anything_to_compare_by_no_alias_is_moved(bench: Harness) -> None:
    """And the hint says that nothing is trained twice."""
    sweeper = bench.sweeper()
    runs = bench.train(sweeper)
    with pytest.raises(UsageError, match="no validation loss") as caught:
        sweeper.rank_trials(parse_grid(GRID), runs, alias="desk@best")
    assert "--validation" in caught.value.hint
    assert sweeper.pipeline.registry.aliases() == {}


def test_a_failed_trial_does_not_stop_the_others(bench: Harness) -> None:
    """All fail here: every one is asked, and the end says so."""
    bench.client.statuses = ["running", "failed"]
    sweeper = bench.sweeper()
    runs = bench.train(sweeper)
    assert {run.state.value for run in runs.values()} == {"failed"}
    with pytest.raises(JobFailedError, match="not one trial"):
        sweeper.rank_trials(parse_grid(GRID), runs, alias="desk@best")


def test_a_refused_point_does_not_stop_the_others(bench: Harness) -> None:
    """The endpoint says no to one combination."""
    bench.client.fail("jobs.create", Fault(status_error(400)))
    runs = bench.train(bench.sweeper(concurrency=1))
    assert sum(run.model is not None for run in runs.values()) == 3


def test_a_network_that_comes_and_goes_is_borne(bench: Harness) -> None:
    """Looks that fail are looked again."""
    bench.client.fail("jobs.retrieve", *[Fault(never_sent()) for _ in range(8)])
    assert len(bench.train(bench.sweeper())) == 4


def test_the_budget_is_for_all_trials_together() -> None:
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
