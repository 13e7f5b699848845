"""A search halves its trials, keeps to its budget, and is never paid twice, wherever it is interrupted."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import time_machine

from ftpipe.errors import CostLimitError, JobFailedError, UsageError
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.records import Hyperparameters, Run, RunSpec
from ftpipe.records.sweep import Sweep
from ftpipe.sweep.grid import parse_grid
from ftpipe.sweep.halving import SearchState, plan_rounds, write_state
from ftpipe.sweep.search import Budget, SearchPlan, SearchPlanner, SearchRunner
from tests.cli.conftest import WHILE_BASES_LIVE
from tests.fakes.epoch_trainer import EpochTrainer, Loss, loss_by_rate
from tests.fakes.harness import Harness, SimulatedCrash
from tests.fakes.openai_client import Fault, never_sent, status_error

AXES = ["learning_rate_multiplier=1,0.5,2,4", "epochs=4"]
SHORT_AXES = ["learning_rate_multiplier=1,0.5,2,4", "epochs=2"]


class SearchHarness(Harness):
    """A dataset, an endpoint that trains epoch by epoch, and a search over four learning rates."""

    client: EpochTrainer

    def __init__(self, folder: Path, *, name: str = "local", loss: Loss = loss_by_rate) -> None:
        super().__init__(folder)
        self.client = EpochTrainer(loss)
        self.name, self.axes = name, AXES
        for name, first in (("train.jsonl", 0), ("valid.jsonl", 50)):
            rows = [
                {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
                for n in range(first, first + 12)
            ]
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.spec = RunSpec(
            provider=name,
            data=folder / "train.jsonl",
            validation=folder / "valid.jsonl",
            model="smollm2-135m-instruct" if name == "local" else "gpt-4.1-mini-2025-04-14",
            hyperparameters=Hyperparameters(n_epochs=4),
        )
        self.rounds: list[tuple[int, list[str]]] = []

    @property
    def provider(self) -> Provider:
        """The named profile over the fake endpoint."""
        profile = find_profile(self.name).model_copy(update={"base_url": "http://127.0.0.1:1/v1", "key_env": ""})
        return open_openai(profile, {}, client=self.client.as_client(), sleep=self.clock.sleep)

    def plan_search(self, budget: Budget | None = None, axes: list[str] | None = None) -> SearchPlan:
        """The plan, as a new process would make it."""
        pipeline = self.pipeline()
        report = pipeline.plan(self.spec).report
        planner = SearchPlanner(pipeline, self.spec, report, budget or Budget())
        return planner.plan(parse_grid(axes or self.axes), default_epochs=4, folder=self.folder / "searches")

    def search(
        self,
        budget: Budget | None = None,
        *,
        concurrency: int = 2,
        on_trial: Callable[[str, Run], None] = lambda _name, _run: None,
    ) -> Sweep:
        """Search from the beginning, or continue, as a new process would."""
        runner = SearchRunner(
            self.pipeline(),
            self.plan_search(budget),
            concurrency=concurrency,
            clock=self.clock,
            on_trial=on_trial,
            on_round=lambda current, names: self.rounds.append((current.epochs, list(names))),
        )
        self.runner = runner
        runner.search()
        return runner.result(alias="desk@best")

    def rates(self) -> list[float]:
        """The multiplier of each job, in the order of creation."""
        return [
            body["method"]["supervised"]["hyperparameters"]["learning_rate_multiplier"] for body in self.client.bodies
        ]

    def epochs(self) -> dict[float, int]:
        """Multiplier → epochs that were trained, over all its jobs."""
        trained: Counter[float] = Counter()
        for job_id, count in self.client.trained.items():
            trained[float(self.client.hyperparameters(job_id)["learning_rate_multiplier"])] += count
        return dict(trained)


@pytest.fixture
def here(tmp_path: Path) -> SearchHarness:
    """Jobs can be paused and cost nothing."""
    return SearchHarness(tmp_path)


@pytest.fixture
def paid(tmp_path: Path) -> SearchHarness:
    """Jobs cost money."""
    return SearchHarness(tmp_path, name="openai")


def test_search_continues_the_better_half_and_stops_the_others(here: SearchHarness) -> None:
    """Four trials for two epochs; the better two go on in the same jobs; the others are cancelled."""
    sweep = here.search()
    assert [(epochs, len(names)) for epochs, names in here.rounds] == [(2, 4), (4, 2)]
    assert here.rounds[1][1] == ["learning_rate_multiplier=0.5 epochs=4", "learning_rate_multiplier=1 epochs=4"]
    assert here.epochs() == {1.0: 4, 0.5: 4, 2.0: 2, 4.0: 2}
    assert sorted(here.client.status.values()) == ["cancelled", "cancelled", "succeeded", "succeeded"]
    assert here.client.calls["jobs.create"] == 4
    assert [(trial.valid_loss, trial.stopped_after) for trial in sweep.trials] == [
        (0.125, None), (0.25, None), (1.0, 2), (2.0, 2),
    ]  # fmt: skip
    model = here.pipeline().registry.models.get("desk@best")
    assert model.id == sweep.best_model
    assert model.requested is not None
    assert model.requested.learning_rate_multiplier == 0.5


def test_paid_search_starts_again_with_more_epochs(paid: SearchHarness) -> None:
    """No job is paused; the models of earlier rounds stay, and take part in the comparison."""
    sweep = paid.search()
    assert (paid.client.calls["jobs.pause"], paid.client.calls["jobs.cancel"]) == (0, 0)
    assert sorted(paid.rates()) == [0.5, 0.5, 1.0, 1.0, 2.0, 4.0]
    assert paid.epochs() == {1.0: 6, 0.5: 6, 2.0: 2, 4.0: 2}
    assert sweep.trials[0].name == "learning_rate_multiplier=0.5 epochs=4"
    assert len(sweep.trials) == 6
    assert all(trial.model for trial in sweep.trials)


def test_best_model_may_be_of_an_early_round(tmp_path: Path) -> None:
    """Where more epochs are worse."""
    harness = SearchHarness(
        tmp_path, name="openai", loss=lambda values, epoch: values["learning_rate_multiplier"] * epoch
    )
    assert harness.search().trials[0].name == "learning_rate_multiplier=0.5 epochs=2"


class Whole:
    """A search with two short rounds that nobody interrupts, and how often it starts, ends and writes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.harness = SearchHarness(folder, name=name)
        self.harness.axes = SHORT_AXES
        self.changes = self.writes = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ftpipe.sweep.search.write_state", self._write)
            self.sweep = self.harness.search(on_trial=self._count)

    def _count(self, _name: str, _run: Run) -> None:
        self.changes += 1

    def _write(self, path: Path, state: SearchState) -> None:
        self.writes += 1
        write_state(path, state)

    def assert_equals(self, harness: SearchHarness, sweep: Sweep) -> None:
        """The interrupted search found the same, with the same jobs and epochs."""
        assert [trial.name for trial in sweep.trials] == [trial.name for trial in self.sweep.trials]
        assert harness.client.calls["jobs.create"] == self.harness.client.calls["jobs.create"]
        assert harness.epochs() == self.harness.epochs()


@pytest.fixture(scope="module", params=["local", "openai"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A search that is not interrupted, at an endpoint that continues jobs, and at one that does not."""
    with time_machine.travel(WHILE_BASES_LIVE, tick=True):
        return Whole(tmp_path_factory.mktemp("whole"), request.param)


def test_search_killed_in_its_second_round_continues(here: SearchHarness) -> None:
    """The jobs that were paused are not made again; at every other moment: the two tests below."""

    def die(_name: str, _run: Run) -> None:
        if len(here.rounds) == 2:
            raise SimulatedCrash

    with pytest.raises(SimulatedCrash):
        here.search(on_trial=die)
    here.search()
    assert here.client.calls["jobs.create"] == 4
    assert here.epochs() == {1.0: 4, 0.5: 4, 2.0: 2, 4.0: 2}


@pytest.mark.slow
def test_killed_search_continues_and_pays_nothing_twice(whole: Whole, tmp_path: Path) -> None:
    """Whenever a trial starts or ends a round, the process dies there; the same search continues."""
    assert whole.changes == 12
    for dies_at in range(1, whole.changes + 1):
        harness, calls = SearchHarness(tmp_path / str(dies_at), name=whole.harness.name), itertools.count(1)
        harness.axes = SHORT_AXES

        def die(_name: str, _run: Run, calls: Iterator[int] = calls, dies_at: int = dies_at) -> None:
            if next(calls) == dies_at:
                raise SimulatedCrash

        with pytest.raises(SimulatedCrash):
            harness.search(on_trial=die)
        whole.assert_equals(harness, harness.search())


@pytest.mark.slow
def test_search_killed_before_any_write_of_its_journal_continues(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may be paused already, or a model registered; and a search that has ended is not made again."""
    assert whole.writes >= 8
    for dies_at in range(1, whole.writes + 1):
        harness, calls = SearchHarness(tmp_path / str(dies_at), name=whole.harness.name), itertools.count(1)
        harness.axes = SHORT_AXES

        def write(path: Path, state: SearchState, calls: Iterator[int] = calls, dies_at: int = dies_at) -> None:
            if next(calls) == dies_at:
                raise SimulatedCrash
            write_state(path, state)

        monkeypatch.setattr("ftpipe.sweep.search.write_state", write)
        with pytest.raises(SimulatedCrash):
            harness.search()
        sweep = harness.search()
        whole.assert_equals(harness, sweep)
    assert harness.search() == sweep
    whole.assert_equals(harness, sweep)


def test_job_that_ran_on_while_nobody_watched_is_compared_at_the_same_epoch(here: SearchHarness) -> None:
    """Its loss at the end of the round counts, and not the later one."""
    seen: list[str] = []

    def die(name: str, _run: Run) -> None:
        seen.append(name)
        raise SimulatedCrash

    with pytest.raises(SimulatedCrash):
        here.search(on_trial=die, concurrency=1)
    [job_id] = here.client.stored_jobs
    here.client.trained[job_id] = 3
    here.search()
    outcome = here.runner.state.outcomes[0][seen[0]]
    assert outcome.loss == here.client.loss(here.client.hyperparameters(job_id), 2)


def test_search_that_another_process_has_begun_trains_the_trials_of_its_journal(here: SearchHarness) -> None:
    """Both were planned before; the estimate of one has allowed other trials."""
    plan = here.plan_search()
    others = ({"learning_rate_multiplier": 0.25, "epochs": 4}, {"learning_rate_multiplier": 0.125, "epochs": 4})
    write_state(plan.path, plan.state.model_copy(update={"points": others, "rounds": plan_rounds(2, 4)}))
    runner = SearchRunner(here.pipeline(), plan, clock=here.clock)
    runner.search()
    assert runner.result(alias="desk@best").trials[0].name == "learning_rate_multiplier=0.125 epochs=4"
    assert sorted(here.rates()) == [0.125, 0.25]


def test_lost_pause_is_sent_again(here: SearchHarness) -> None:
    here.client.fail_next("jobs.pause", Fault(never_sent()), Fault(never_sent()))
    here.search()
    assert here.client.calls["jobs.pause"] >= 4
    assert here.epochs() == {1.0: 4, 0.5: 4, 2.0: 2, 4.0: 2}


def test_failed_trial_is_left_out_and_not_repeated(here: SearchHarness) -> None:
    here.client.failing = {0.5}
    sweep = here.search()
    assert sweep.trials[0].name == "learning_rate_multiplier=1 epochs=4"
    assert here.client.calls["jobs.create"] == 4
    failed = next(trial for trial in sweep.trials if trial.point["learning_rate_multiplier"] == 0.5)
    assert (failed.model, failed.stopped_after, "it broke" in failed.error) == (None, None, True)
    here.search()
    assert here.client.calls["jobs.create"] == 4


def test_search_without_any_model_says_so(here: SearchHarness) -> None:
    here.client.failing = {0.5, 1.0, 2.0, 4.0}
    with pytest.raises(JobFailedError, match="no trial") as caught:
        here.search()
    assert "failed (server_error): it broke" in caught.value.message
    assert caught.value.hint == "run the same command to try them again"


def test_failed_trials_of_the_last_round_are_tried_again(here: SearchHarness) -> None:
    """With new jobs; those that were cancelled are not, nor is anything else."""
    here.client.failing = {0.5, 1.0, 2.0, 4.0}
    with pytest.raises(JobFailedError):
        here.search()
    here.client.failing = set()
    sweep = here.search()
    assert here.client.calls["jobs.create"] == 8
    assert sweep.trials[0].name == "learning_rate_multiplier=0.5 epochs=4"
    assert here.runner.retryable() == []
    assert here.search() == sweep
    assert here.client.calls["jobs.create"] == 8


def test_trial_that_fails_in_the_second_round_is_tried_again(here: SearchHarness) -> None:
    """It had been the better one; its new job trains from the beginning."""

    def break_down(_name: str, _run: Run) -> None:
        here.client.failing = {0.5} if len(here.rounds) == 2 else set()

    first = here.search(on_trial=break_down)
    assert (first.trials[0].point["learning_rate_multiplier"], here.runner.retryable()) == (
        1.0, ["learning_rate_multiplier=0.5 epochs=4"],
    )  # fmt: skip
    here.client.failing = set()
    assert here.search().trials[0].point["learning_rate_multiplier"] == 0.5
    assert here.client.calls["jobs.create"] == 5


def test_trial_that_the_user_cancels_is_not_tried_again(here: SearchHarness) -> None:
    def cancel(_name: str, run: Run) -> None:
        if run.job is not None and len(here.rounds) == 2 and here.client.status[run.job.id] == "running":
            here.client.status[run.job.id] = "cancelled"

    with pytest.raises(JobFailedError):
        here.search(on_trial=cancel)
    assert here.runner.retryable() == []
    with pytest.raises(JobFailedError):
        here.search()
    assert here.client.calls["jobs.create"] == 4


def test_failed_paid_trial_is_not_paid_again(paid: SearchHarness) -> None:
    """The error names the journal, for those who want to pay for new jobs."""
    paid.client.failing = {0.5, 1.0, 2.0, 4.0}
    for _ in range(2):
        with pytest.raises(JobFailedError, match="it broke") as caught:
            paid.search()
    assert paid.client.calls["jobs.create"] == 4
    assert str(paid.plan_search().path) in caught.value.hint


def test_trials_without_validation_loss_cannot_be_compared(tmp_path: Path) -> None:
    """A loss that is no number is none."""
    harness = SearchHarness(tmp_path, loss=lambda _values, _epoch: float("nan"))
    with pytest.raises((UsageError, JobFailedError)) as caught:
        harness.search()
    assert caught.value.hint


def test_time_that_is_up_starts_no_further_trial_but_ends_the_best(here: SearchHarness) -> None:
    """Half a second for two epochs: the time suffices for two trials in the first round, and for one to its end."""
    sweep = here.search(Budget(seconds=1.5), concurrency=1)
    state = here.runner.state
    assert [sum(one.run_id is not None for one in outcomes.values()) for outcomes in state.outcomes] == [2, 1]
    assert len(state.not_started()) == 3
    assert state.spent_seconds <= 1.5
    assert sweep.trials[0].model is not None
    assert here.search(Budget(seconds=1.5)) == sweep


def test_time_counts_no_epochs_of_trials_that_failed(here: SearchHarness) -> None:
    """Otherwise an epoch would seem to be short. The first trial is refused, the second one fails after an epoch."""
    here.client.fail_next("jobs.create", Fault(status_error(400)))
    here.client.failing = {0.5}
    here.search(Budget(seconds=1000), concurrency=1)
    outcomes = here.runner.state.outcomes[0]
    assert [outcome.epochs for outcome in outcomes.values()] == [0, 0, 2, 2]
    assert here.runner.state.trained_epochs == 8


def test_trial_that_a_rate_limit_puts_off_is_counted_once(here: SearchHarness) -> None:
    """The time suffices for two trials of four epochs; the second one is begun after a poll of the first one."""
    here.client.fail_next("jobs.create", None, Fault(status_error(429)))
    here.axes = ["learning_rate_multiplier=1,0.5", "epochs=4"]
    here.search(Budget(seconds=8, seconds_per_epoch=0.9))
    assert here.runner.state.not_started() == []


def test_first_trial_is_trained_to_its_end_whatever_the_time(here: SearchHarness) -> None:
    sweep = here.search(Budget(seconds=0.1), concurrency=1)
    assert here.epochs() == {1.0: 4}
    assert sweep.best_model == sweep.trials[0].model


def test_time_spent_before_a_kill_counts(here: SearchHarness) -> None:
    budget = Budget(seconds=1000)
    ends = 0

    def die(_name: str, run: Run) -> None:
        nonlocal ends
        ends += 1
        if ends == 4:
            raise SimulatedCrash

    with pytest.raises(SimulatedCrash):
        here.search(budget, on_trial=die)
    before = here.plan_search(budget).state.spent_seconds
    assert before > 0
    here.clock.sleep(3600)
    here.search(budget)
    assert before < here.runner.state.spent_seconds < 60


@pytest.mark.parametrize(("seconds", "trials"), [(None, 8), (120, 16), (119, 8), (79, 4), (59, 2)])
def test_time_decides_about_the_number_of_trials(here: SearchHarness, seconds: float | None, trials: int) -> None:
    """Sixteen points of four epochs, five seconds each."""
    axes = ["learning_rate_multiplier=1,2,4,8", "lora_rank=2,4,8,16", "epochs=4"]
    plan = here.plan_search(Budget(seconds=seconds, seconds_per_epoch=5), axes)
    assert len(plan.state.points) == trials
    assert plan.seconds is not None
    assert seconds is None or plan.seconds <= seconds


def test_too_little_time_is_refused_before_anything_is_sent(here: SearchHarness) -> None:
    with pytest.raises(UsageError, match="smallest search takes about 40 s") as caught:
        here.plan_search(Budget(seconds=20, seconds_per_epoch=5))
    assert "--budget-minutes" in caught.value.hint
    assert here.client.calls["jobs.create"] == 0


def test_money_decides_about_the_number_of_trials(paid: SearchHarness) -> None:
    """All jobs of all rounds together stay below the limit; nothing is sent if two trials are too dear."""
    free = paid.plan_search()
    assert free.cost is not None
    assert len(free.state.points) == 4
    half = paid.plan_search(Budget(max_cost=free.cost * 0.7))
    assert half.cost is not None
    assert (len(half.state.points), half.cost <= free.cost * 0.7) == (2, True)
    with pytest.raises(CostLimitError, match="smallest search") as caught:
        paid.plan_search(Budget(max_cost=free.cost * 0.1))
    assert "--max-cost" in caught.value.hint
    paid.search(Budget(max_cost=free.cost * 0.7))
    costs = [run.cost.high or 0 for run in paid.open_registry().runs.recent() if run.cost]
    assert len(costs) == paid.client.calls["jobs.create"] == 2
    assert sum(costs) <= free.cost * 0.7


def test_epochs_that_are_not_a_number_are_refused_before_anything_is_sent(here: SearchHarness) -> None:
    with pytest.raises(UsageError, match="epochs=auto") as caught:
        here.plan_search(axes=["epochs=auto,3"])
    assert caught.value.hint
    assert not here.client.calls


def test_search_with_another_budget_is_another_search(here: SearchHarness) -> None:
    assert here.plan_search(Budget(seconds=9)).path != here.plan_search(Budget(seconds=10)).path
