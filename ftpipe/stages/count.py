"""Stage 2: tokens and cost, before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections import Counter

from ftpipe.catalog.base_models import base_models, example_limit
from ftpipe.catalog.budget import CostQuote
from ftpipe.catalog.cost import epochs_range, estimate
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.histograms import build_histograms
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan.analyze import DatasetAnalysis, analyze_file
from ftpipe.dataset.scan.context import ScanContext, ScanObserver
from ftpipe.dataset.scan.findings import finding_of
from ftpipe.dataset.scan.tally import Tally
from ftpipe.errors import UsageError
from ftpipe.records import CostEstimate, Dataset, Finding, Method, Report, Severity, TokenStats
from ftpipe.tokenization import encoding_for

MAX_EPOCHS = 50


def count(
    report: Report,
    *,
    model: str,
    epochs: int | None = None,
    prices: PriceTable | None = None,
    today: dt.date | None = None,
    max_cost: float | None = None,
    settings: CheckSettings | None = None,
    observer: ScanObserver | None = None,
) -> Report:
    """Add token figures for a base model, and what a job would cost.

    The figures of ``validate`` are used if they were made with the same encoding and limit; otherwise the files are
    read again.

    Args:
        report: From ``validate``.
        model: Base model, or a fine-tuned one to train further.
        epochs: 1 to 50; ``None`` leaves it to the service, and the cost becomes a range.
        prices: Price rows; ``None`` for the package's rows of the report's target.
        today: For the age of prices; ``None`` for the current day.
        max_cost: Maximum cost of the job in the currency of the estimate; more is a finding.
        settings: As for ``validate``.
        observer: Called with progress, if a file is read again, and with findings about the cost.

    Raises:
        UsageError: ``epochs`` is out of range.
    """
    if epochs is not None and not 1 <= epochs <= MAX_EPOCHS:
        raise UsageError(
            f"{epochs} epochs are out of range.", f"Request 1 to {MAX_EPOCHS}, or leave it to the service."
        )
    today, observer = today or dt.date.today(), observer or ScanObserver()
    report = _with_token_stats(report, model, today, observer)
    tokens = _require_tokens(report)
    table = prices or PriceTable.load(target=report.target)
    cost = estimate(
        tokens, method=report.method, model=model, span=epochs_range(report.dataset.examples, epochs),
        row=table.row(model), today=today,
    )  # fmt: skip
    report = report.model_copy(update={"model": model, "cost": cost})
    quote = CostQuote(cost, report.method is Method.REINFORCEMENT, max_cost)
    findings = _price_findings(report, quote, settings or CheckSettings(), today)
    if observer.on_finding is not None:
        for finding in findings:
            observer.on_finding(finding)
    return _with_price_findings(report, findings)


def cost_by_model(
    report: Report, *, epochs: int | None = None, prices: PriceTable | None = None, today: dt.date | None = None
) -> tuple[CostEstimate, ...]:
    """The cost of the same job on each available base model with a price and the same encoding, the cheapest first.

    Args:
        report: From ``validate`` or ``count``.
        epochs: As for ``count``.
        prices: As for ``count``.
        today: For shutdown dates and the age of prices; ``None`` for the current day.
    """
    today, table = today or dt.date.today(), prices or PriceTable.load(target=report.target)
    tokens, span = _require_tokens(report), epochs_range(report.dataset.examples, epochs)
    billable = report.histograms.billable if report.histograms else {}
    costs = []
    for base in base_models():
        row, shutdown = table.row(base.name), base.shutdown.get(report.target)
        if row is None or (shutdown is not None and shutdown < today) or report.method.value not in base.methods:
            continue
        if encoding_for(base.name).name != tokens.encoding:
            continue
        limit = base.example_tokens
        cut = tokens.model_copy(update={"billable": tokens.total if limit is None else billable[limit]})
        costs.append(estimate(cut, method=report.method, model=base.name, span=span, row=row, today=today))
    return tuple(sorted(costs, key=lambda cost: (cost.expected or 0.0, cost.model)))


def _require_tokens(report: Report) -> TokenStats:
    if report.tokens is None or report.histograms is None:
        raise UsageError("The report has no token figures.", "Make it with ftpipe.validate.")
    return report.tokens


def _with_token_stats(report: Report, model: str, today: dt.date, observer: ScanObserver) -> Report:
    """The report with the token figures for a model; files are read again if their figures are for another one."""
    update: dict[str, object] = {}
    if not _fits(report.tokens, report.target, model):
        train = _recount(report, report.dataset, model, today, observer)
        update |= {"tokens": train.token_stats(), "histograms": build_histograms(train.statistics)}
    if report.validation is not None and not _fits(report.validation_tokens, report.target, model):
        validation = _recount(report, report.validation, model, today, ScanObserver())
        update["validation_tokens"] = validation.token_stats()
    return report.model_copy(update=update) if update else report


def _fits(tokens: TokenStats | None, target: str, model: str) -> bool:
    encoding = encoding_for(model)
    return (
        tokens is not None
        and tokens.encoding == encoding.name
        and (target == "local" or tokens.limit == example_limit(model, target))
        and (not tokens.exact or encoding.exact)
    )


def _recount(report: Report, dataset: Dataset, model: str, today: dt.date, observer: ScanObserver) -> DatasetAnalysis:
    settings = CheckSettings(select=("FT701",))
    observer = ScanObserver(on_progress=observer.on_progress)
    context = ScanContext(report.target, report.method.value, model, None, settings, today, observer)
    return analyze_file(dataset.path, context)


def _price_findings(report: Report, quote: CostQuote, settings: CheckSettings, today: dt.date) -> tuple[Finding, ...]:
    tally = Tally(settings, report.target, today)
    for rule in all_rules():
        if rule.scope == "price" and settings.wants(rule.code):
            tally.add(rule, rule.check(quote))
    return tuple(finding_of(raw, report.dataset.path.name) for raw in tally.all_retained())


def _with_price_findings(report: Report, findings: tuple[Finding, ...]) -> Report:
    """The report with these findings about the cost instead of earlier ones."""
    codes = {rule.code for rule in all_rules() if rule.scope == "price"}
    others = tuple(finding for finding in report.findings if finding.code not in codes)
    counts = {code: number for code, number in report.summary.counts.items() if code not in codes}
    levels = Counter(finding.severity for finding in findings)
    levels.subtract(finding.severity for finding in report.findings if finding.code in codes)
    summary = report.summary.model_copy(
        update={
            "counts": dict(sorted((counts | Counter(finding.code for finding in findings)).items())),
            "errors": report.summary.errors + levels[Severity.ERROR],
            "warnings": report.summary.warnings + levels[Severity.WARNING],
            "infos": report.summary.infos + levels[Severity.INFO],
        }
    )
    return report.model_copy(update={"findings": (*others, *findings), "summary": summary})
