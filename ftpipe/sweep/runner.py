"""A sweep: one dataset trained over a grid of hyperparameters, within a budget, a few jobs at a time.

Every trial is an ordinary run with its own journal, so a sweep that was stopped is gone on with by asking for the same
sweep again: trials that have a job keep it, and nothing is trained twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ftpipe.errors import (
    ConnectionFailedError,
    CostLimitError,
    JobFailedError,
    ProviderError,
    RateLimitError,
    RequestRefusedError,
    UsageError,
)
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.pipeline.preflight import Plan
from ftpipe.records import CostEstimate, Model, Record, Report, Run, RunSpec, RunState, TrainingMetrics
from ftpipe.sweep.grid import GridPoint, Value, hyperparameters_at, trial_name

if TYPE_CHECKING:
    from ftpipe.catalog.training_prices import PriceTable

Scores = Callable[[Sequence[Model]], Mapping[str, float]]
"""Model id → score on held-out items, higher is better."""

MAX_FAILED_POLLS = 30
"""Looks at the jobs that may fail one after the other before the sweep stops; nothing is lost then."""


class Trial(Record):
    """One point of the grid, and what became of it."""

    name: str
    """Its hyperparameters, for example ``n_epochs=3 learning_rate_multiplier=0.5``."""
    point: dict[str, Value]
    run_id: str
    state: RunState
    model: str | None = None
    valid_loss: float | None = None
    """The last validation loss, over the whole file where the endpoint gives it."""
    train_loss: float | None = None
    score: float | None = None
    """On the held-out items; ``None`` where the sweep was not evaluated."""
    cost: float | None = None
    """As estimated, or as billed once that is known."""
    error: str = ""


class Sweep(Record):
    """All trials, best first."""

    trials: tuple[Trial, ...]
    compared_by: str
    """``held-out score`` or ``validation loss``."""
    best_model: str
    """The best trial's model."""
    alias: str
    """What points at it now."""
    currency: str = "USD"


class SweepRunner:
    """Trains a grid.

    Args:
        pipeline: Over the endpoint and the registry.
        concurrency: Jobs under way at once.
        sleep: Waits between looks; as the pipeline waits where not given.
        on_trial: Hears each time a trial has begun or ended.
        on_progress: Hears of each trial that was looked at and goes on.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        concurrency: int = 2,
        sleep: Callable[[float], None] | None = None,
        on_trial: Callable[[str, Run], None] = lambda _name, _run: None,
        on_progress: Callable[[str, Run], None] = lambda _name, _run: None,
    ) -> None:
        self.pipeline = pipeline
        self.concurrency = max(1, concurrency)
        self._sleep = sleep or pipeline.sleep
        self._on_trial = on_trial
        self._on_progress = on_progress

    def plan(
        self, spec: RunSpec, points: Sequence[GridPoint], report: Report, *, prices: PriceTable | None = None
    ) -> list[tuple[str, Plan]]:
        """Each trial's name and plan with its own cost; nothing is sent.

        Raises:
            DatasetError: The target would refuse the data.
            UsageError: The endpoint does not support the method or the suffix.
            TrainingNotAvailableError: The endpoint accepts no new jobs any more.
        """
        planned = []
        for point in points:
            hyperparameters = hyperparameters_at(spec.hyperparameters, point)
            trial = spec.model_copy(update={"hyperparameters": hyperparameters})
            plan = self.pipeline.plan_for(trial, _with_cost(report, trial, prices))
            plan.raise_blocker()
            planned.append((trial_name(point), plan))
        return planned

    def train(self, planned: Sequence[tuple[str, Plan]]) -> dict[str, Run]:
        """Bring every trial to its end; a failed one does not stop the others.

        Raises:
            OutcomeUnknownError: A paid call may have happened; the same sweep again finds out.
            ProviderError: The endpoint could not be asked for too long; the same sweep again goes on.
        """
        waiting = [(name, self.pipeline.start(plan)) for name, plan in planned]
        running: dict[str, Run] = {}
        done: dict[str, Run] = {}
        failures = 0
        while waiting or running:
            self._fill(waiting, running, done)
            finished = len(done)
            failures = failures + 1 if self._poll(running, done) else 0
            if failures > MAX_FAILED_POLLS:
                raise ProviderError("the endpoint did not answer for long", "ask for the same sweep again to go on")
            if running and len(done) == finished:
                self._sleep(self.pipeline.provider.profile.poll_first_seconds)
        return done

    def _fill(self, waiting: list[tuple[str, Run]], running: dict[str, Run], done: dict[str, Run]) -> None:
        """Create jobs while there is room; an endpoint that takes no more for now is asked again later."""
        while waiting and len(running) < self.concurrency:
            name, run = waiting[0]
            try:
                running[name] = self.pipeline.advance(run, wait=False)
            except RateLimitError:
                if not running:
                    raise
                return
            except RequestRefusedError:
                done[name] = self.pipeline.registry.run(run.id)
            waiting.pop(0)
            self._on_trial(name, running.get(name) or done[name])

    def _poll(self, running: dict[str, Run], done: dict[str, Run]) -> bool:
        """Look at every job once; True where the endpoint could not be asked."""
        failed = False
        for name, before in list(running.items()):
            try:
                run = self.pipeline.refresh(before)
            except (ConnectionFailedError, RateLimitError):
                failed = True
                continue
            except JobFailedError:
                run = self.pipeline.registry.run(before.id)
            running[name] = run
            if run.state in (RunState.REGISTERED, RunState.FAILED):
                done[name] = running.pop(name)
                self._on_trial(name, run)
            else:
                self._on_progress(name, run)
        return failed

    def rank_trials(
        self, points: Sequence[GridPoint], runs: Mapping[str, Run], *, alias: str, scores: Scores | None = None
    ) -> Sweep:
        """Compare the trials and point an alias at the best one.

        Args:
            points: The grid.
            runs: From ``train``.
            alias: Name that will point at the best model.
            scores: Scores models on held-out items; without it the validation loss decides.

        Raises:
            JobFailedError: Not one trial has a model.
            UsageError: There is nothing to compare by.
        """
        models = [run.model for run in runs.values() if run.model is not None]
        if not models:
            raise JobFailedError("not one trial of the sweep ended with a model", "`ftpipe status` says why")
        found = scores(models) if scores else {}
        trials = [self._trial(point, runs[trial_name(point)], found) for point in points]
        key = _by_score if scores else _by_loss
        ranked = sorted(trials, key=key)
        best = ranked[0]
        if best.model is None or key(best) == (math.inf, math.inf):
            raise UsageError(
                "the trials have no validation loss, so none can be called the best",
                "add --validation FILE or --evaluate FILE and ask for the same sweep again; nothing is trained twice",
            )
        word = "held-out score" if scores else "validation loss"
        self.pipeline.registry.alias(alias, best.model, reason=f"best of {len(trials)} trials by {word}: {best.name}")
        currency = models[0].currency
        return Sweep(trials=tuple(ranked), compared_by=word, best_model=best.model, alias=alias, currency=currency)

    def _trial(self, point: GridPoint, run: Run, scores: Mapping[str, float]) -> Trial:
        model = run.model
        metrics = model.metrics if model and model.metrics else None
        cost = run.cost.expected if run.cost else None
        return Trial(
            name=trial_name(point),
            point=point,
            run_id=run.id,
            state=run.state,
            model=model.id if model else None,
            valid_loss=_valid_loss(metrics),
            train_loss=metrics.train_loss if metrics else None,
            score=scores.get(model.id) if model else None,
            cost=model.actual_cost if model and model.actual_cost is not None else cost,
            error=run.error,
        )


def enforce_total_budget(costs: Sequence[CostEstimate | None], max_cost: float | None) -> None:
    """Raise where all trials together may cost more than the user allows.

    Raises:
        CostLimitError: The high ends together are over the limit, or one is not known.
    """
    if max_cost is None:
        return
    known = [cost.high for cost in costs if cost is not None and cost.high is not None]
    if len(known) < len(costs):
        raise CostLimitError("the cost of a trial is not known, so --max-cost cannot be kept", "add its price first")
    if sum(known) > max_cost:
        raise CostLimitError(
            f"the {len(costs)} trials may cost up to {sum(known):.2f} together, over the limit of {max_cost:.2f}",
            "try fewer values, or raise --max-cost",
        )


def _with_cost(report: Report, spec: RunSpec, prices: PriceTable | None) -> Report:
    from ftpipe.stages.count import count

    epochs = spec.hyperparameters.n_epochs
    return count(report, model=spec.model, epochs=epochs if isinstance(epochs, int) else None, prices=prices)


def _valid_loss(metrics: TrainingMetrics | None) -> float | None:
    if metrics is None:
        return None
    return metrics.full_valid_loss if metrics.full_valid_loss is not None else metrics.valid_loss


def _by_loss(trial: Trial) -> tuple[float, float]:
    loss = trial.valid_loss
    return (math.inf, math.inf) if trial.model is None or loss is None or not math.isfinite(loss) else (loss, 0.0)


def _by_score(trial: Trial) -> tuple[float, float]:
    if trial.model is None or trial.score is None:
        return (math.inf, math.inf)
    return (-trial.score, trial.valid_loss if trial.valid_loss is not None else math.inf)
