"""Stage 2: tokens and cost, before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from ftpipe.dataset.cost import epochs_range, estimate
from ftpipe.dataset.models import example_limit
from ftpipe.dataset.prices import PriceTable
from ftpipe.dataset.rules import find_rule
from ftpipe.dataset.settings import CheckSettings
from ftpipe.dataset.survey import quiet, survey
from ftpipe.dataset.tokens import encoding_for
from ftpipe.errors import UsageError
from ftpipe.records import CostEstimate, Dataset, Finding, Method, Report, Severity, TokenStats

STALE_PRICE = "FT708"


def count(
    report: Report,
    *,
    model: str,
    epochs: int | None = None,
    prices: PriceTable | None = None,
    today: dt.date | None = None,
    on_progress: Callable[[int, int], None] = quiet,
) -> Report:
    """Add token figures for a base model, and what a job would cost.

    The figures of ``validate`` are taken over where they were made with the same encoding and limit.

    Args:
        report: From ``validate``.
        model: Base model, or a fine-tuned one to train further.
        epochs: 1 to 50 as asked; ``None`` leaves it to the service, and the cost becomes a range.
        prices: Price rows; ``None`` for the package's rows of the report's target.
        today: For the age of prices; ``None`` for the current day.
        on_progress: Told bytes done and bytes in all, where the file is read again.

    Raises:
        UsageError: ``epochs`` is out of range.
    """
    if epochs is not None and not 1 <= epochs <= 50:
        raise UsageError(f"{epochs} epochs are out of range.", "Ask for 1 to 50, or leave it to the service.")
    day = today or dt.date.today()
    tokens = _tokens(report, report.dataset, report.tokens, model, day, on_progress)
    validation = None
    if report.validation is not None:
        validation = _tokens(report, report.validation, report.validation_tokens, model, day, quiet)
    table = prices or PriceTable.load(target=report.target)
    span = epochs_range(report.dataset.examples, epochs)
    cost = estimate(tokens, method=report.method, model=model, span=span, row=table.row(model), today=day)
    counted = report.model_copy(
        update={"model": model, "tokens": tokens, "validation_tokens": validation, "cost": cost}
    )
    return with_price_finding(counted, cost)


def _tokens(
    report: Report,
    dataset: Dataset,
    known: TokenStats | None,
    model: str,
    day: dt.date,
    on_progress: Callable[[int, int], None],
) -> TokenStats:
    """The figures of one file: those known where they fit the model, else counted anew."""
    choice = encoding_for(model)
    limit = example_limit(model, report.target)
    if (
        known is not None
        and known.encoding == choice.name
        and known.limit == limit
        and (not known.exact or choice.exact)
    ):
        return known
    settings = CheckSettings(select=("FT701",))
    found = survey(
        dataset.path, target=report.target, method=report.method.value, model=model, settings=settings, today=day,
        on_progress=on_progress,
    )  # fmt: skip
    return found.stats()


def with_price_finding(report: Report, cost: CostEstimate) -> Report:
    """The report with a warning for a price that is old or unknown, in place of an earlier one."""
    others = tuple(f for f in report.findings if f.code != STALE_PRICE)
    counts = {code: n for code, n in report.summary.counts.items() if code != STALE_PRICE}
    had = len(report.findings) - len(others)
    warnings = report.summary.warnings - had
    rule = find_rule(STALE_PRICE)
    if cost.warning and rule is not None and report.method is not Method.REINFORCEMENT:
        finding = Finding(
            code=rule.code, name=rule.name, severity=Severity.WARNING, message=cost.warning, hint=rule.hint,
            origin=rule.origin, evidence=rule.evidence, file=report.dataset.path.name,
        )  # fmt: skip
        others, counts, warnings = (*others, finding), counts | {STALE_PRICE: 1}, warnings + 1
    summary = report.summary.model_copy(update={"counts": dict(sorted(counts.items())), "warnings": warnings})
    return report.model_copy(update={"findings": others, "summary": summary})
