"""Train one dataset over a grid of hyperparameters, within a budget and with a limited number of concurrent jobs.

Every trial is an ordinary run with its own journal. To continue a stopped sweep, run the same sweep again: trials that
have a job keep it, and nothing is trained twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

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
from ftpipe.providers.retry import retry
from ftpipe.records import CostEstimate, Model, Report, Run, RunSpec, RunState, TrainingMetrics
from ftpipe.records.sweep import GridPoint, Sweep, Trial
from ftpipe.sweep.grid import hyperparameters_at, trial_name

if TYPE_CHECKING:
    from ftpipe.catalog.training_prices import PriceTable

T = TypeVar("T")

Scores = Callable[[Sequence[Model]], Mapping[str, float]]
"""Model id → score on held-out items, higher is better."""

TRANSIENT_ERRORS = (ConnectionFailedError, RateLimitError)
"""Errors of a poll after which the job is polled again."""

MAX_FAILED_POLLS = 30
"""Failed polls of a job in a row after which the sweep stops; the same sweep again continues."""


class SweepRunner:
    """Trains the points of a grid.

    Args:
        pipeline: Connects the endpoint and the registry.
        concurrency: Maximum number of concurrent jobs.
        sleep: Waits between polls; by default what the pipeline uses.
        on_trial: Called when a trial starts or ends.
        on_progress: Called when a trial was polled and is still running.
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
            DatasetError: The target would reject the data.
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
        """Run every trial to its end; a failed trial does not stop the others.

        Raises:
            OutcomeUnknownError: A paid call may have happened; running the same sweep again finds out.
            ProviderError: The endpoint did not answer for too long; running the same sweep again continues.
        """
        waiting = list(planned)
        running: dict[str, Run] = {}
        done: dict[str, Run] = {}
        while waiting or running:
            self._start_trials(waiting, running, done)
            finished = len(done)
            self._poll_all(running, done)
            if running and len(done) == finished:
                self._sleep(self._poll_seconds)
        return done

    def may_begin(self, name: str) -> bool:  # noqa: ARG002 - for searches
        """Whether a trial is to be trained at all."""
        return True

    def begin(self, name: str, run: Run) -> Run:  # noqa: ARG002 - for searches
        """Create the job of a trial, or find it."""
        return self.pipeline.advance(run, wait=False)

    def has_ended(self, name: str, run: Run) -> bool:  # noqa: ARG002 - for searches
        """Whether nothing more is to be trained of a trial."""
        return run.state in (RunState.REGISTERED, RunState.FAILED)

    @property
    def no_model_hint(self) -> str:
        """What to do if no trial has a model."""
        return "run `ftpipe status` for the reason"

    @property
    def no_loss_hint(self) -> str:
        """What to do if no trial has a validation loss."""
        return "add --validation FILE or --evaluate FILE and run the same sweep again; nothing is trained twice"

    @property
    def _poll_seconds(self) -> float:
        return self.pipeline.provider.profile.poll_first_seconds

    def _start_trials(self, waiting: list[tuple[str, Plan]], running: dict[str, Run], done: dict[str, Run]) -> None:
        """Create jobs up to the concurrency limit; if the endpoint takes no more for now, later rounds try again."""
        while waiting and len(running) < self.concurrency:
            name, plan = waiting[0]
            if not self.may_begin(name):
                waiting.pop(0)
                continue
            run = self.pipeline.start(plan)
            try:
                running[name] = self.begin(name, run)
            except RateLimitError:
                if not running:
                    raise
                return
            except RequestRefusedError:
                done[name] = self.pipeline.registry.runs.get(run.id)
            waiting.pop(0)
            self._on_trial(name, running.get(name) or done[name])

    def _poll_all(self, running: dict[str, Run], done: dict[str, Run]) -> None:
        """Poll every running job once; those that ended move to ``done``."""
        for name, before in list(running.items()):
            try:
                run = self._poll(before)
            except JobFailedError:
                run = self.pipeline.registry.runs.get(before.id)
            running[name] = run
            if self.has_ended(name, run):
                done[name] = running.pop(name)
                self._on_trial(name, run)
            else:
                self._on_progress(name, run)

    def _poll(self, run: Run) -> Run:
        return retry_polls(lambda: self.pipeline.refresh(run), seconds=self._poll_seconds, sleep=self._sleep)

    def rank_trials(
        self, points: Sequence[GridPoint], runs: Mapping[str, Run], *, alias: str, scores: Scores | None = None
    ) -> Sweep:
        """Compare the trials and point an alias to the best model.

        Args:
            points: The grid.
            runs: From ``train``.
            alias: Name that will point to the best model.
            scores: Scores models on held-out items; without it the validation loss decides.

        Raises:
            JobFailedError: No trial has a model.
            UsageError: The trials have nothing to be compared by.
        """
        models = [run.model for run in runs.values() if run.model is not None]
        held_out = scores(models) if scores and models else {}
        trials = [trial_of(point, runs[trial_name(point)], held_out) for point in points]
        return self.name_best(trials, alias=alias, compared_by="held-out score" if scores else "validation loss")

    def name_best(
        self,
        trials: Sequence[Trial],
        *,
        alias: str,
        compared_by: Literal["held-out score", "validation loss"] = "validation loss",
    ) -> Sweep:
        """Rank trials, and point an alias to the best model.

        Raises:
            JobFailedError: No trial has a model.
            UsageError: The trials have nothing to be compared by.
        """
        if all(trial.model is None for trial in trials):
            reason = next((f": {trial.error}" for trial in trials if trial.error), "")
            raise JobFailedError(f"no trial of the sweep produced a model{reason}", self.no_model_hint)
        key = _by_score if compared_by == "held-out score" else _by_loss
        ranked = sorted(trials, key=key)
        best = ranked[0]
        if best.model is None or key(best) == (math.inf, math.inf):
            raise UsageError("the trials have no validation loss, so they cannot be compared", self.no_loss_hint)
        registry = self.pipeline.registry
        model = registry.runs.get(best.run_id).model
        registry.models.set_alias(
            alias, best.model, reason=f"best of {len(trials)} trials by {compared_by}: {best.name}"
        )
        return Sweep(
            trials=tuple(ranked),
            compared_by=compared_by,
            best_model=best.model,
            alias=alias,
            currency=model.currency if model else "USD",
        )


def retry_polls(call: Callable[[], T], *, seconds: float, sleep: Callable[[float], None]) -> T:
    """Call the endpoint until it answers, at most ``MAX_FAILED_POLLS`` times.

    Raises:
        ProviderError: It did not answer.
    """
    try:
        return retry(
            call,
            retry_on=lambda exc: isinstance(exc, TRANSIENT_ERRORS),
            attempts=MAX_FAILED_POLLS,
            first_wait=seconds,
            max_wait=seconds,
            sleep=sleep,
        )
    except TRANSIENT_ERRORS as exc:
        raise ProviderError(
            f"the endpoint did not answer {MAX_FAILED_POLLS} polls in a row: {exc.message}",
            "run the same sweep again to continue",
        ) from exc


def trial_of(point: GridPoint, run: Run, scores: Mapping[str, float] | None = None) -> Trial:
    """The result of training at a point of the grid."""
    model = run.model
    metrics = model.metrics if model and model.metrics else None
    cost = run.cost.expected if run.cost else None
    return Trial(
        name=trial_name(point),
        point=point,
        run_id=run.id,
        state=run.state,
        model=model.id if model else None,
        valid_loss=last_valid_loss(metrics),
        train_loss=metrics.train_loss if metrics else None,
        score=scores.get(model.id) if scores and model else None,
        cost=model.actual_cost if model and model.actual_cost is not None else cost,
        error=run.error,
    )


def enforce_total_budget(costs: Sequence[CostEstimate | None], max_cost: float | None) -> None:
    """Raise if all trials together may cost more than the limit.

    Raises:
        CostLimitError: The sum of the high estimates is over the limit, or one estimate is unknown.
    """
    if max_cost is None:
        return
    known = [cost.high for cost in costs if cost is not None and cost.high is not None]
    if len(known) < len(costs):
        raise CostLimitError(
            "the cost of a trial is not known, so --max-cost cannot be checked", "add a price for the model first"
        )
    if sum(known) > max_cost:
        raise CostLimitError(
            f"the {len(costs)} trials may cost up to {sum(known):.2f} together, over the limit of {max_cost:.2f}",
            "try fewer values, or raise --max-cost",
        )


def _with_cost(report: Report, spec: RunSpec, prices: PriceTable | None) -> Report:
    from ftpipe.stages.count import count

    epochs = spec.hyperparameters.n_epochs
    return count(report, model=spec.model, epochs=epochs if isinstance(epochs, int) else None, prices=prices)


def last_valid_loss(metrics: TrainingMetrics | None) -> float | None:
    """The last validation loss, over the whole file if the endpoint reports that."""
    if metrics is None:
        return None
    return metrics.full_valid_loss if metrics.full_valid_loss is not None else metrics.valid_loss


def _by_loss(trial: Trial) -> tuple[float, float]:
    loss = trial.valid_loss
    if loss is None or not math.isfinite(loss):
        return (math.inf, math.inf)
    return (math.inf, loss) if trial.model is None else (loss, 0.0)


def _by_score(trial: Trial) -> tuple[float, float]:
    if trial.model is None or trial.score is None:
        return (math.inf, math.inf)
    return (-trial.score, trial.valid_loss if trial.valid_loss is not None else math.inf)
