"""Search hyperparameters by successive halving within a budget: train many a little, and the better half further.

Trials are runs with journals of their own, as those of a sweep; the search has a journal besides, with what it has
decided. To continue a stopped search, run the same search again: nothing is paid twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.canonical_json import canonical_json
from ftpipe.catalog.budget import budget_violation
from ftpipe.errors import CostLimitError, NotFoundError, RequestRefusedError, UsageError
from ftpipe.formatting import duration
from ftpipe.paths import state_dir
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import Report, Run, RunSpec, RunState
from ftpipe.records.idempotency_keys import run_key
from ftpipe.records.sweep import GridPoint, Sweep, Trial
from ftpipe.sweep.grid import trial_name
from ftpipe.sweep.halving import (
    DEFAULT_TRIALS,
    TRIAL_COUNTS,
    Outcome,
    Round,
    SearchState,
    TimeBudget,
    choose_points,
    finite,
    plan_rounds,
    planned_epochs,
    read_state,
    write_state,
)
from ftpipe.sweep.runner import SweepRunner, last_valid_loss, retry_polls, trial_of

if TYPE_CHECKING:
    from ftpipe.catalog.training_prices import PriceTable

FOLDER = "searches"
"""In the state folder: the journals of searches, and the data that were split for them."""
SAVE_INTERVAL_SECONDS = 10.0
"""How much of the time that was spent a kill forgets at most."""
TRAINED_STATES = (RunState.CREATED, RunState.REGISTERED)
"""States of the run of a trial that was trained in a round: it has a job that is paused, or a model."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may need.

    Attributes:
        max_cost: Money for all its jobs, in the currency of the estimates; ``None`` for no limit.
        seconds: Time; ``None`` for no limit.
        seconds_per_epoch: An estimate for one epoch of one trial; ``None`` if there is none.
    """

    max_cost: float | None = None
    seconds: float | None = None
    seconds_per_epoch: float | None = None


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What a search will do; nothing has been sent.

    Attributes:
        spec: What is requested for each trial, besides the hyperparameters that are searched.
        report: Of the data.
        state: The journal: a new one, or that of the same search before.
        path: The file of the journal.
        continues: Whether a round continues the jobs of the last one; otherwise it starts new ones.
        cost: What all jobs may cost at most; ``None`` if a price is not known.
        seconds: How long it takes at most, by the estimate; ``None`` if there is none.
        budget: What it may need.
        prices: The price table.
    """

    spec: RunSpec
    report: Report
    state: SearchState
    path: Path
    continues: bool
    cost: float | None
    seconds: float | None
    budget: Budget
    prices: PriceTable | None = None


class SearchPlanner:
    """Chooses how many trials a search makes, by what they cost and how long they take.

    Args:
        pipeline: Connects the endpoint and the registry.
        spec: What is requested for each trial.
        report: Of the data, counted.
        budget: What the search may need.
        prices: The price table; the default is the package's own.
    """

    def __init__(
        self, pipeline: Pipeline, spec: RunSpec, report: Report, budget: Budget, prices: PriceTable | None = None
    ) -> None:
        self._runner = SweepRunner(pipeline)
        self._spec, self._report, self._budget, self._prices = spec, report, budget, prices
        self._costs: dict[tuple[str, int], float | None] = {}
        self._continues = can_continue(pipeline)

    def plan(self, points: Sequence[GridPoint], *, default_epochs: int, folder: Path | None = None) -> SearchPlan:
        """The largest search that the budget allows, or the one that was begun with the same budget before.

        Args:
            points: Every combination that may be tried; the first one always is.
            default_epochs: Epochs of a point without that axis.
            folder: For journals; by default in the project's state folder.

        Raises:
            CostLimitError: Two trials may cost more than the budget, or the price is not known.
            UsageError: Two trials take longer than the budget, or endpoint or search do not take what is requested.
        """
        if any(point.get("epochs") == "auto" for point in points):
            raise UsageError("a search cannot try epochs=auto, because its rounds end at epochs", "give a number")
        key = self._key(points)
        path = (folder or state_dir() / FOLDER) / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        state = read_state(path, key)
        chosen = [state.points] if state is not None else self._choices(points)
        for number, choice in enumerate(chosen, start=1):
            epochs_of = [int(point.get("epochs", default_epochs)) for point in choice]
            rounds = plan_rounds(len(choice), max(epochs_of)) if state is None else state.rounds
            cost, seconds = self._cost(choice, epochs_of, rounds), self._seconds(epochs_of, rounds)
            if state is not None or self._fits(cost, seconds, is_last=number == len(chosen)):
                break
        return SearchPlan(
            spec=self._spec,
            report=self._report,
            state=state or SearchState(key=key, points=choice, rounds=rounds),
            path=path,
            continues=self._continues,
            cost=cost,
            seconds=seconds,
            budget=self._budget,
            prices=self._prices,
        )

    def _choices(self, points: Sequence[GridPoint]) -> list[tuple[GridPoint, ...]]:
        """Sets of points, the largest first."""
        has_budget = self._budget.max_cost is not None or self._budget.seconds is not None
        counts = sorted({min(count, len(points)) for count in TRIAL_COUNTS}, reverse=True)
        allowed = counts if has_budget else [count for count in counts if count <= DEFAULT_TRIALS]
        return [choose_points(points, count, seed=self._spec.seed or 0) for count in allowed]

    def _fits(self, cost: float | None, seconds: float | None, *, is_last: bool) -> bool:
        limit, seconds_limit = self._budget.max_cost, self._budget.seconds
        if limit is not None and cost is None:
            violation = budget_violation(self._report.cost, limit)
            raise CostLimitError(*(violation or ("the cost of a trial is not known", "add a price for the model")))
        if limit is not None and cost is not None and cost > limit:
            if is_last:
                raise CostLimitError(
                    f"the smallest search may cost up to {cost:.2f}, over the limit of {limit:.2f}",
                    "raise --max-cost, or train once without --auto",
                )
            return False
        if seconds_limit is not None and seconds is not None and seconds > seconds_limit:
            if is_last:
                raise UsageError(
                    f"the smallest search takes about {duration(seconds)}, longer than {duration(seconds_limit)}",
                    "raise --budget-minutes, lower --epochs, or train once without --auto",
                )
            return False
        return True

    def _cost(self, points: Sequence[GridPoint], epochs_of: Sequence[int], rounds: Sequence[Round]) -> float | None:
        """The most that all jobs cost, if the most expensive trials survive; ``None`` if a price is unknown."""
        if not self._runner.pipeline.provider.profile.paid:
            return 0.0
        total = 0.0
        for current in rounds:
            costs = [
                self._cost_of(point, min(epochs, current.epochs))
                for point, epochs in zip(points, epochs_of, strict=True)
            ]
            known = [cost for cost in costs if cost is not None]
            if len(known) < len(costs):
                return None
            total += sum(sorted(known, reverse=True)[: current.trials])
        return total

    def _cost_of(self, point: GridPoint, epochs: int) -> float | None:
        key = (trial_name(point), epochs)
        if key not in self._costs:
            points = [{**point, "epochs": epochs}]
            [(_, plan)] = self._runner.plan(self._spec, points, self._report, prices=self._prices)
            self._costs[key] = plan.cost.high if plan.cost else None
        return self._costs[key]

    def _seconds(self, epochs_of: Sequence[int], rounds: Sequence[Round]) -> float | None:
        each = self._budget.seconds_per_epoch
        if each is None:
            return None
        return each * sum(sum(trained) for _, trained in planned_epochs(epochs_of, rounds, continues=self._continues))

    def _key(self, points: Sequence[GridPoint]) -> str:
        validation = self._report.validation
        run = run_key(
            self._spec,
            endpoint=self._runner.pipeline.provider.endpoint,
            dataset_sha256=self._report.dataset.sha256,
            validation_sha256=validation.sha256 if validation else None,
        )
        budget = [self._budget.max_cost, self._budget.seconds]
        return hashlib.sha256(canonical_json({"run": run, "points": list(points), "budget": budget})).hexdigest()


def can_continue(pipeline: Pipeline) -> bool:
    """Whether jobs can be paused and continued at no cost: those of ftpipe's own server."""
    profile = pipeline.provider.profile
    return profile.target == "local" and not profile.paid


class SearchRunner(SweepRunner):
    """Trains the rounds of a search.

    A trial that fails is left out. Where jobs cost nothing, the same search again tries those of the last round again:
    a file check may have run out of time, or a trainer may have been killed.

    Args:
        pipeline: Connects the endpoint and the registry.
        plan: From ``SearchPlanner``.
        concurrency: Maximum number of concurrent jobs.
        sleep: Waits between polls; by default what the pipeline uses.
        on_trial: Called when a trial starts or ends a round.
        on_progress: Called when a trial was polled and is still running.
        on_round: Called before each round, with the names of its trials.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: SearchPlan,
        *,
        concurrency: int = 2,
        sleep: Callable[[float], None] | None = None,
        on_trial: Callable[[str, Run], None] = lambda _name, _run: None,
        on_progress: Callable[[str, Run], None] = lambda _name, _run: None,
        on_round: Callable[[Round, Sequence[str]], None] = lambda _round, _names: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(pipeline, concurrency=concurrency, sleep=sleep, on_trial=on_trial, on_progress=on_progress)
        self._search, self.state = plan, plan.state
        self._on_round = on_round
        self._budget = TimeBudget(plan.budget.seconds, plan.budget.seconds_per_epoch, clock)
        self._unsaved_seconds = 0.0
        self._pending: dict[str, int] = {}

    def search(self) -> None:
        """Train every round that is not over.

        Raises:
            OutcomeUnknownError: A paid call may have happened; running the same search again finds out.
            ProviderError: The endpoint did not answer for too long; running the same search again continues.
        """
        registry = self.pipeline.registry
        waiting = "another ftpipe makes the same search; waiting for it"
        with registry.lock(self.state.key, on_wait=lambda: self.pipeline.observer.on_status(waiting)):
            self.state = read_state(self._search.path, self.state.key) or self.state
            self.state = self.state.without_outcomes(self.retryable())
            self._budget.elapsed()
            while True:
                self._train_round()
                following = self.state.next_round()
                if following is None:
                    break
                self._save(following)
            self._cancel_stopped(())

    def retryable(self) -> list[str]:
        """Trials of the last round that failed, if to try them again costs nothing; a cancelled one has not failed."""
        if not self._search.continues:
            return []
        return [
            name
            for name, run in self._runs_of(self.state.outcomes[-1:]).items()
            if run.state not in TRAINED_STATES and (run.job is None or run.job.status != "cancelled")
        ]

    @property
    def no_model_hint(self) -> str:
        """What to do if no trial has a model."""
        if self.retryable():
            return "run the same command to try them again"
        paid = "" if self._search.continues else ", which are paid"
        return f"remove {self._search.path} to search again with new jobs{paid}"

    @property
    def no_loss_hint(self) -> str:
        """What to do if no trial has a validation loss."""
        return "`ftpipe train --sweep KEY=V1,V2 --evaluate FILE` compares trials by held-out answers"

    def _train_round(self) -> None:
        names = self.state.names()
        self._cancel_stopped(names)
        current = self.state.rounds[self.state.round_index]
        open_names = [name for name in names if name not in self.state.outcomes[-1]]
        if not open_names:
            return
        self._on_round(current, names)
        self._save(self.state)
        points = [self.state.points_by_name[name] for name in open_names]
        if not self._search.continues:
            points = [{**point, "epochs": self._epochs(trial_name(point))} for point in points]
        planned = self.plan(self._search.spec, points, self._search.report, prices=self._search.prices)
        self.train(list(zip(open_names, (plan for _, plan in planned), strict=True)))

    def _epochs(self, name: str) -> int:
        """Up to which epoch a trial is trained in the round that is under way."""
        return min(self._own_epochs(name), self.state.rounds[self.state.round_index].epochs)

    def _own_epochs(self, name: str) -> int:
        return int(self.state.points_by_name[name].get("epochs", self.state.rounds[-1].epochs))

    def _new_epochs(self, name: str) -> int:
        """Epochs that the round that is under way trains."""
        index = self.state.round_index
        before = self.state.rounds[index - 1].epochs if index and self._search.continues else 0
        return max(0, self._epochs(name) - min(before, self._own_epochs(name)))

    def may_begin(self, name: str) -> bool:
        """Whether the time suffices for one more trial in this round, and for the best one to get to its end."""
        self._pending.pop(name, None)  # an attempt to begin it that was put off by a rate limit
        is_first = not self._pending and not any(one.run_id for one in self.state.outcomes[-1].values())
        last = self.state.rounds[-1].epochs
        to_the_end = last - self.state.rounds[self.state.round_index].epochs * self._search.continues
        if self.state.round_index == len(self.state.rounds) - 1:
            to_the_end = 0
        needed = self._new_epochs(name) + sum(self._pending.values()) + to_the_end
        if is_first or self._budget.allows(self.state, needed):
            self._pending[name] = self._new_epochs(name)
            return True
        self._save(self.state.with_outcome(name, Outcome()))
        return False

    def begin(self, name: str, run: Run) -> Run:
        """Create the job of a trial, or continue it; one that ran on while nobody watched is paused."""
        had_job = run.job is not None
        try:
            run = super().begin(name, run)
        except RequestRefusedError:
            self._record(name, run, None)
            raise
        if had_job and self._search.continues and run.state == RunState.CREATED:
            run = self._poll(run)
            jobs = self.pipeline.provider.jobs
            act = jobs.pause if self._is_trained_enough(name, run) else jobs.resume
            if run.job is not None and not run.job.is_finished:
                self._act(partial(act, run.job.id))
        return run

    def has_ended(self, name: str, run: Run) -> bool:
        """Whether a trial was trained enough for this round; its job is paused then, and the outcome saved."""
        self._count_time()
        if super().has_ended(name, run):
            self._record(name, run, self._loss(name, run) if run.model is not None else None)
            return True
        if not self._is_trained_enough(name, run) or run.job is None:
            return False
        self._act(partial(self.pipeline.provider.jobs.pause, run.job.id))
        self._record(name, run, self._loss(name, run))
        return True

    def _is_trained_enough(self, name: str, run: Run) -> bool:
        """Whether a job has gone through the epochs of this round and has more of them."""
        if not self._search.continues or self._epochs(name) == self._own_epochs(name):
            return False
        return len(self._epoch_losses(run)) >= self._epochs(name)

    def _epoch_losses(self, run: Run) -> list[float]:
        metrics = self.pipeline.registry.jobs.metrics(run.job.id) if run.job else []
        return [one.full_valid_loss for one in metrics if one.full_valid_loss is not None]

    def _loss(self, name: str, run: Run) -> float | None:
        losses = self._epoch_losses(run)
        epochs = self._epochs(name)
        if len(losses) >= epochs:
            return finite(losses[epochs - 1])
        return finite(last_valid_loss(run.model.metrics if run.model else None))

    def _record(self, name: str, run: Run, loss: float | None) -> None:
        self._count_time()
        self._pending.pop(name, None)
        epochs = self._new_epochs(name) if run.state in TRAINED_STATES else 0
        self._save(self.state.with_outcome(name, Outcome(run_id=run.id, loss=loss, epochs=epochs)))

    def _count_time(self) -> None:
        """Add the time since the last call; it is saved now and then."""
        seconds = self._budget.elapsed()
        self.state = self.state.model_copy(update={"spent_seconds": self.state.spent_seconds + seconds})
        self._unsaved_seconds += seconds
        if self._unsaved_seconds > SAVE_INTERVAL_SECONDS:
            self._save(self.state)

    def _save(self, state: SearchState) -> None:
        self.state, self._unsaved_seconds = state, 0.0
        write_state(self._search.path, state)

    def _cancel_stopped(self, names: Sequence[str]) -> None:
        """Cancel the paused jobs of trials that are not trained further."""
        if not self._search.continues:
            return
        for name, run in self._runs_of(self.state.outcomes).items():
            if name not in names and run.job is not None and run.state == RunState.CREATED:
                self._act(partial(self.pipeline.provider.jobs.cancel, run.job.id))
                self.pipeline.refresh(run)

    def _act(self, call: Callable[[], object]) -> None:
        """Call the endpoint; a job that has ended meanwhile, or is gone, needs nothing."""
        try:
            retry_polls(call, seconds=self._poll_seconds, sleep=self._sleep)
        except (RequestRefusedError, NotFoundError):
            return

    def _runs_of(self, rounds: Sequence[Mapping[str, Outcome]]) -> dict[str, Run]:
        """The last run of each trial that was started in these rounds."""
        ids = {name: one.run_id for outcomes in rounds for name, one in outcomes.items() if one.run_id}
        return {name: self.pipeline.registry.runs.get(run_id) for name, run_id in ids.items()}

    def result(self, *, alias: str) -> Sweep:
        """Rank the trials, and point an alias to the best model by validation loss.

        Args:
            alias: Name that will point to the best model.

        Raises:
            JobFailedError: No trial has a model.
            UsageError: The trials have no validation loss.
        """
        trials: dict[str, Trial] = {}
        for current, outcomes in zip(self.state.rounds, self.state.outcomes, strict=False):
            for name, outcome in outcomes.items():
                if outcome.run_id is not None:
                    trials[outcome.run_id] = self._trial(name, outcome, current)
        return self.name_best(list(trials.values()), alias=alias)

    def _trial(self, name: str, outcome: Outcome, current: Round) -> Trial:
        """A run of the search; one without a model was stopped, or it failed."""
        run, point = self.pipeline.registry.runs.get(outcome.run_id or ""), self.state.points_by_name[name]
        epochs = min(self._own_epochs(name), current.epochs)
        if not self._search.continues:
            point = {**point, "epochs": epochs}
        trial = trial_of(point, run)
        if run.model is not None or outcome.loss is None:
            return trial
        return trial.model_copy(update={"valid_loss": outcome.loss, "stopped_after": epochs, "error": ""})
