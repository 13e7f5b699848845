"""The gates before anything is sent or spent: broken data, a cost over the limit, what an endpoint does not take."""

from __future__ import annotations

from datetime import date

from ftpipe.catalog.budget import budget_violation
from ftpipe.errors import CostLimitError, DatasetError, TrainingNotAvailableError, UsageError
from ftpipe.providers.profiles import Profile
from ftpipe.records import CostEstimate, Report, RunSpec

CLOSING_DAYS = 180
"""How long before an endpoint's last day a plan speaks of it."""


def require_valid_dataset(report: Report) -> None:
    """Raise where the target would refuse the dataset.

    Raises:
        DatasetError: With the report.
    """
    if report.ok:
        return
    first = next((finding for finding in report.findings if finding.severity == "error"), None)
    place = f", first at line {first.line}" if first and first.line else ""
    count = report.summary.errors
    raise DatasetError(
        f"{report.target} would refuse {report.dataset.path.name}: {count} error{'s' if count != 1 else ''}{place}",
        f"`ftpipe prepare {report.dataset.path}` lists them all with what to do",
        report,
    )


def enforce_budget(cost: CostEstimate | None, max_cost: float | None) -> None:
    """Raise where a job may cost more than the user allows.

    Raises:
        CostLimitError: The estimate's high end is over the limit, or there is no estimate to compare.
    """
    fault = budget_violation(cost, max_cost)
    if fault:
        raise CostLimitError(*fault)


def endpoint_notice(profile: Profile, *, today: date) -> str:
    """What a plan has to say about an endpoint that will not take jobs for ever, or from everyone; often nothing."""
    last, title = profile.last_day_to_create, profile.title or profile.name
    parts = [f"until {last}"] if last and 0 <= (date.fromisoformat(last) - today).days <= CLOSING_DAYS else []
    parts += ["only from organizations that trained there before"] if profile.new_customers is False else []
    asks = "this is asked before anything is uploaded" if profile.probe_training else "a refusal costs nothing"
    return f"{title} takes jobs {', and '.join(parts)}; {asks}" if parts else ""


def require_supported(profile: Profile, spec: RunSpec, *, today: date) -> None:
    """Raise where the endpoint is known not to take what is asked.

    Raises:
        UsageError: The method or the suffix.
        TrainingNotAvailableError: The endpoint takes no new jobs since a day that has passed.
    """
    title = profile.title or profile.name
    if spec.method and spec.method not in profile.methods:
        raise UsageError(f"{title} does not train with {spec.method.value}", f"it knows: {', '.join(profile.methods)}")
    if spec.suffix and len(spec.suffix) > profile.max_suffix_chars:
        raise UsageError(
            f"the suffix has {len(spec.suffix)} characters; {title} takes {profile.max_suffix_chars}",
            "choose a shorter --suffix",
        )
    last = profile.last_day_to_create
    if last and today > date.fromisoformat(last):
        raise TrainingNotAvailableError(
            f"{title} takes no new fine-tuning jobs since {last}",
            "train on your own machine with --provider local, or at another endpoint",
        )
