"""Stage 2: tokens and cost, before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable

from ftpipe.catalog.base_models import example_limit
from ftpipe.catalog.budget import CostQuote
from ftpipe.catalog.cost import epochs_range, estimate
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan.analyze import analyze_file, quiet
from ftpipe.dataset.scan.findings import finding_of
from ftpipe.dataset.scan.tally import Tally
from ftpipe.errors import UsageError
from ftpipe.records import Dataset, Finding, Method, Report, Severity, TokenStats
from ftpipe.tokenization import encoding_for


def count(
    report: Report,
    *,
    model: str,
    epochs: int | None = None,
    prices: PriceTable | None = None,
    today: dt.date | None = None,
    max_cost: float | None = None,
    settings: CheckSettings | None = None,
    on_progress: Callable[[int, int], None] = quiet,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Add token figures for a base model, and what a job would cost.

    The figures of ``validate`` are taken over where they were made with the same encoding and limit.

    Args:
        report: From ``validate``.
        model: Base model, or a fine-tuned one to train further.
        epochs: 1 to 50 as asked; ``None`` leaves it to the service, and the cost becomes a range.
        prices: Price rows; ``None`` for the package's rows of the report's target.
        today: For the age of prices; ``None`` for the current day.
        max_cost: The most that the job may cost, in the currency of the estimate; more is a finding.
        settings: What to select, ignore and weigh, as for ``validate``.
        on_progress: Told bytes done and bytes in all, where the file is read again.
        on_finding: Told what is found about the cost.

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
    found = price_findings(
        counted, CostQuote(cost, report.method is Method.REINFORCEMENT, max_cost), settings or CheckSettings(), day
    )
    if on_finding is not None:
        for finding in found:
            on_finding(finding)
    return with_price_findings(counted, found)


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
    found = analyze_file(
        dataset.path, target=report.target, method=report.method.value, model=model, settings=settings, today=day,
        on_progress=on_progress,
    )  # fmt: skip
    return found.stats()


def price_findings(report: Report, quote: CostQuote, settings: CheckSettings, day: dt.date) -> tuple[Finding, ...]:
    """What the rules about money find."""
    tally = Tally(settings, report.target, day)
    for rule in all_rules():
        if rule.scope == "price" and settings.wants(rule.code):
            tally.add(rule, rule.check(quote))
    return tuple(finding_of(item, report.dataset.path.name) for kept in tally.kept.values() for item in kept)


def with_price_findings(report: Report, found: tuple[Finding, ...]) -> Report:
    """The report with what was found about money, in place of what was found earlier."""
    codes = {rule.code for rule in all_rules() if rule.scope == "price"}
    others = tuple(f for f in report.findings if f.code not in codes)
    counts = {code: n for code, n in report.summary.counts.items() if code not in codes}
    levels = Counter(f.severity for f in found)
    levels.subtract(f.severity for f in report.findings if f.code in codes)
    summary = report.summary.model_copy(
        update={
            "counts": dict(sorted((counts | Counter(f.code for f in found)).items())),
            "errors": report.summary.errors + levels[Severity.ERROR],
            "warnings": report.summary.warnings + levels[Severity.WARNING],
            "infos": report.summary.infos + levels[Severity.INFO],
        }
    )
    return report.model_copy(update={"findings": (*others, *found), "summary": summary})
