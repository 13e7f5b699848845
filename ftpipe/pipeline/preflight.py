"""Checks before anything is sent or spent: broken data, a cost over the limit, what an endpoint does not accept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ftpipe.auto_epochs import auto_epochs
from ftpipe.catalog.base_models import is_hosted_base
from ftpipe.catalog.budget import budget_violation
from ftpipe.catalog.learning_rates import absolute_learning_rate
from ftpipe.config import RunConfig, flag_of
from ftpipe.errors import (
    CostLimitError,
    DatasetError,
    FtpipeError,
    QuotaError,
    TrainingNotAvailableError,
    UsageError,
)
from ftpipe.grading.grader_types import GraderError
from ftpipe.grading.graders import TYPES_OF_JOBS, parse_grader
from ftpipe.providers.deadlines import days_left, is_closed, models_text, new_jobs_text
from ftpipe.providers.profiles import Profile
from ftpipe.records import CostEstimate, Hyperparameters, Method, Report, RunSpec
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS, RECIPES, REINFORCEMENT_HYPERPARAMETERS
from ftpipe.stages.validate import blocking_errors

if TYPE_CHECKING:
    from ftpipe.providers.responses import PriceQuote

MAX_QUOTE_RATIO = 1.1
"""How far an endpoint's estimate can be above the one that the user has seen: they count tokens differently."""
NOTICE_DAYS = 180
"""How many days before an endpoint's last day a plan mentions that day."""


@dataclass(frozen=True)
class Plan:
    """What a run will train on, what it will cost, and why it cannot start; nothing has been sent."""

    spec: RunSpec
    report: Report
    blockers: tuple[FtpipeError, ...]
    """Why the run cannot start; empty if it can."""
    notices: tuple[str, ...] = ()
    """What the user should know about the endpoint, and what ftpipe chose because the endpoint does not."""

    @property
    def cost(self) -> CostEstimate | None:
        """The cost estimate; ``None`` if nothing was counted."""
        return self.report.cost

    def raise_blocker(self) -> None:
        """Raise the first reason why the run cannot start, if there is one.

        Raises:
            DatasetError: The endpoint would refuse the dataset; the report is in the error.
            UsageError: The endpoint does not support the method or the suffix.
            TrainingNotAvailableError: The endpoint accepts no new jobs any more.
            CostLimitError: The estimate is over the limit, or the price is unknown.
        """
        if self.blockers:
            raise self.blockers[0]


def make_plan(spec: RunSpec, report: Report, *, profile: Profile, today: date, max_cost: float | None = None) -> Plan:
    """Check a validated and counted dataset against an endpoint and a budget.

    Args:
        spec: What is requested.
        report: From ``validate`` and ``count``.
        profile: The endpoint's profile.
        today: The current day in UTC.
        max_cost: What the job may cost at most, in the currency of the estimate; ``None`` for no limit.
    """
    spec = with_local_base(spec.model_copy(update={"method": spec.method or report.method}), profile)
    spec, choices = with_explicit_hyperparameters(spec, report, profile)
    blockers = (
        dataset_blocker(report, skip_bad_rows=spec.hyperparameters.extra.get("skip_bad_rows") is True),
        endpoint_blocker(profile, spec, today=today),
        None if is_quoted_later(report.cost, profile) else budget_blocker(report.cost, max_cost),
    )
    return Plan(
        spec=spec,
        report=report,
        blockers=tuple(blocker for blocker in blockers if blocker is not None),
        notices=(*filter(None, (endpoint_notice(profile, today=today),)), *choices),
    )


def spec_of_config(config: RunConfig, *, provider: str, report: Report, **chosen: Any) -> RunSpec:
    """The specification of a run.

    Args:
        config: What is configured, with what the user chose for this run.
        provider: Where it is trained.
        report: Of the dataset; its method is that of the data.
        chosen: The other fields of the specification.
    """
    return RunSpec(
        provider=provider,
        method=report.method,
        hyperparameters=config.hyperparameters,
        suffix=config.suffix,
        seed=config.seed,
        integrations=config.integrations,
        grader=config.grader,
        metadata=config.metadata,
        **chosen,
    )


def local_base(model: str, profile: Profile) -> str | None:
    """The model that is trained on the user's own machine in place of a hosted one; ``None`` for any other model."""
    is_replaced = profile.target == "local" and bool(profile.default_model) and is_hosted_base(model)
    return profile.default_model if is_replaced else None


def with_local_base(spec: RunSpec, profile: Profile) -> RunSpec:
    """The spec with the model that is trained on the user's own machine in place of a hosted one."""
    base = local_base(spec.model, profile)
    return spec if base is None else spec.model_copy(update={"model": base, "requested_model": spec.model})


def with_explicit_hyperparameters(spec: RunSpec, report: Report, profile: Profile) -> tuple[RunSpec, tuple[str, ...]]:
    """The spec with what the endpoint does not choose: epochs, and the rate for a multiplier; and a text for each."""
    hyperparameters, reasons = spec.hyperparameters, []
    update: dict[str, object] = {}
    if not profile.chooses_epochs and hyperparameters.n_epochs == "auto":
        epochs = report.cost.epochs if report.cost else auto_epochs(report.dataset.examples)
        update["n_epochs"] = epochs
        reasons.append(f"{epochs} epochs: as OpenAI would choose for so many examples; --epochs sets another number")
    if profile.learning_rate == "absolute" and hyperparameters.learning_rate is None:
        multiplier = hyperparameters.learning_rate_multiplier
        rate = absolute_learning_rate(profile.target, spec.method or Method.SUPERVISED, multiplier)
        if rate is not None:
            update |= {"learning_rate": rate.value, "learning_rate_multiplier": "auto"}
            reasons.append(rate.reason)
    if not update:
        return spec, ()
    return spec.model_copy(update={"hyperparameters": hyperparameters.model_copy(update=update)}), tuple(reasons)


def dataset_blocker(report: Report, *, skip_bad_rows: bool = False) -> DatasetError | None:
    """The error for a dataset that the target would refuse."""
    errors = blocking_errors(report, skip_bad_rows=skip_bad_rows)
    if report.ok or (skip_bad_rows and not errors):
        return None
    first = errors[0] if errors else None
    position = f", first at line {first.line}" if first and first.line else ""
    count = len(errors) if skip_bad_rows else report.summary.errors
    return DatasetError(
        f"{report.target} would refuse {report.dataset.path.name}: {count} error{'s' if count != 1 else ''}{position}",
        f"`ftpipe prepare {report.dataset.path}` lists them and says how to fix them",
        report,
    )


def budget_blocker(cost: CostEstimate | None, max_cost: float | None) -> CostLimitError | None:
    """The error for an estimate whose high end is over the limit, or whose price is unknown."""
    violation = budget_violation(cost, max_cost)
    return CostLimitError(*violation) if violation else None


def is_quoted_later(cost: CostEstimate | None, profile: Profile) -> bool:
    """Whether a price that ftpipe does not know is checked when the endpoint has estimated it, before paying."""
    return profile.quotes_price and cost is not None and cost.expected is None


def quote_blocker(
    quote: PriceQuote, cost: CostEstimate | None, *, profile: Profile, max_cost: float | None
) -> CostLimitError | QuotaError | None:
    """The error for a price that the endpoint estimates, and that is above what the user has seen or allowed.

    Args:
        quote: What the endpoint estimates.
        cost: The estimate that the user has seen.
        profile: The endpoint's profile.
        max_cost: What the job may cost at most; ``None`` for no limit.
    """
    title = profile.title or profile.name
    if quote.allowed is False:
        return QuotaError(
            f"{title} does not allow this job: {quote.why or 'the balance does not suffice'}",
            "add credit, then run `ftpipe resume`; nothing was created",
        )
    shown = cost.high if cost is not None else None
    if quote.price is None:
        if max_cost is None or shown is not None:
            return None
        return CostLimitError(
            f"{title} has no estimate either ({quote.why or 'no reason was given'}), and the limit is {max_cost:g} USD",
            "remove the limit to train at an unknown price; nothing was created",
        )
    limit = max_cost if max_cost is not None else shown * MAX_QUOTE_RATIO if shown is not None else None
    if limit is None or quote.price <= limit:
        return None
    than = f"the limit is {max_cost:g}" if max_cost is not None else f"the plan said at most {shown:g}"
    return CostLimitError(
        f"{title} estimates {quote.price:g} USD for this job, and {than}; nothing was created",
        f"run `ftpipe train` again with --max-cost {math.ceil(quote.price * 100) / 100:g} to accept it",
    )


def endpoint_blocker(profile: Profile, spec: RunSpec, *, today: date) -> UsageError | TrainingNotAvailableError | None:
    """The error for a request that the endpoint is known not to accept: its method, its suffix, or any new job."""
    title = profile.title or profile.name
    if spec.method and spec.method not in profile.methods:
        return UsageError(
            f"{title} does not support the method {spec.method.value}", f"it supports: {', '.join(profile.methods)}"
        )
    if spec.suffix and not profile.max_suffix_chars:
        return UsageError(f"{title} does not take a suffix", "leave --suffix out")
    if spec.suffix and len(spec.suffix) > profile.max_suffix_chars:
        return UsageError(
            f"the suffix has {len(spec.suffix)} characters; {title} accepts at most {profile.max_suffix_chars}",
            "choose a shorter --suffix",
        )
    if problem := request_blocker(profile, spec) or reinforcement_blocker(profile, spec):
        return problem
    if spec.serve_as and profile.target != "local":
        return UsageError(
            f"{title} names its models itself, so --serve-as cannot be used there",
            "leave it out, or train on your own machine with --provider local",
        )
    if problem := hyperparameter_blocker(profile, spec.hyperparameters):
        return problem
    return closed_blocker(profile, today=today)


def closed_blocker(profile: Profile, *, today: date) -> TrainingNotAvailableError | None:
    """The error for an endpoint that accepts no new jobs any more."""
    if not is_closed(profile, today):
        return None
    return TrainingNotAvailableError(
        f"{profile.title or profile.name} has accepted no new fine-tuning jobs since {profile.last_day_to_create}; "
        f"{models_text(profile, today)}",
        "train on your own machine with --provider local, or at another provider",
    )


def request_blocker(profile: Profile, spec: RunSpec) -> UsageError | None:
    """The error for parts of a request that the endpoint does not take, or that it needs."""
    title = profile.title or profile.name
    given = {
        "seed": ("a seed", spec.seed is not None, "leave --seed out"),
        "validation": ("a validation file", spec.validation is not None, "leave --validation out"),
        "integrations": ("integrations", bool(spec.integrations), "leave integrations out of ftpipe.toml"),
    }
    for name in profile.unsupported:
        what, is_given, hint = given[name]
        if is_given:
            return UsageError(f"{title} does not take {what}", hint)
    if profile.target == "bedrock" and spec.grader is None:
        return UsageError(
            f"{title} needs a grader for {Method.REINFORCEMENT.value}",
            'add [grader] with type = "lambda" and [grader.lambda] with the function\'s ARN to ftpipe.toml; '
            "configs/bedrock.toml shows it",
        )
    return None


def reinforcement_blocker(profile: Profile, spec: RunSpec) -> UsageError | None:
    """The error for reinforcement without a grader, and for its options with another method."""
    if spec.method is not Method.REINFORCEMENT:
        given = [name for name in REINFORCEMENT_HYPERPARAMETERS if getattr(spec.hyperparameters, name) is not None]
        flag = flag_of(f"hyperparameters.{given[0]}") if given else ""
        hint = f"leave {flag} out, or add --method reinforcement"
        return UsageError(f"{flag} is for reinforcement only", hint) if given else None
    if spec.grader is None:
        return UsageError(
            "reinforcement needs a grader, which scores the answers",
            "add --grader FILE with a grader of OpenAI's API as JSON, or [grader] to ftpipe.toml",
        )
    if profile.target == "local":
        try:
            parse_grader(spec.grader, types=TYPES_OF_JOBS)
        except GraderError as exc:
            return exc
    return None


def hyperparameter_blocker(profile: Profile, hyperparameters: Hyperparameters) -> UsageError | None:
    """The error for hyperparameters that the endpoint does not take, or that are given twice."""
    title = profile.title or profile.name
    given = [name for name in EXTENDED_HYPERPARAMETERS if getattr(hyperparameters, name) is not None]
    if refused := [name for name in given if name not in profile.extended_hyperparameters]:
        names = ", ".join(f"{name} ({flag_of(f'hyperparameters.{name}')})" for name in refused)
        is_brief = all(getattr(hyperparameters, name) == value for name, value in RECIPES["brief"].items())
        return UsageError(
            f"{title} does not take {names}{', which the recipe brief sets' if is_brief else ''}",
            "leave it out, or train on your own machine with --provider local; what a single provider takes is set "
            "under [hyperparameters.extra]",
        )
    misplaced = [name for name in profile.extended_hyperparameters if name in hyperparameters.extra]
    if misplaced:
        return UsageError(
            f"{misplaced[0]} is set under [hyperparameters.extra]", "set it under [hyperparameters], without extra"
        )
    if profile.learning_rate == "absolute" and hyperparameters.learning_rate is None:
        return UsageError(
            f"{title} takes absolute learning rates, and its default for this method is not known to ftpipe",
            "state the rate with --learning-rate",
        )
    if hyperparameters.learning_rate is not None and hyperparameters.learning_rate_multiplier != "auto":
        return UsageError(
            "a learning rate and a learning rate multiplier are given", "leave one of them out: the rate replaces it"
        )
    return None


def dates_notice(profile: Profile, *, today: date) -> str:
    """What a check of data says about an endpoint's dates; empty if they are far away or there are none."""
    if closed := closed_blocker(profile, today=today):
        return closed.message
    left = days_left(profile.last_day_to_create, today)
    return endpoint_notice(profile, today=today) if left is not None and left <= NOTICE_DAYS else ""


def endpoint_notice(profile: Profile, *, today: date) -> str:
    """What a plan says about an endpoint that will soon accept no jobs, or not from everyone; often nothing."""
    title, left = profile.title or profile.name, days_left(profile.last_day_to_create, today)
    is_near = left is not None and 0 <= left <= NOTICE_DAYS
    text = new_jobs_text(profile.last_day_to_create, today) if is_near else "accepts new jobs"
    if profile.new_customers is False and (left is None or left >= 0):
        text += ", only from organizations that trained there before"
    elif not is_near:
        return ""
    check = "this is checked before anything is uploaded" if profile.probe_training else "a refusal costs nothing"
    return f"{title} {text}; {check}"
