"""The dataset report as one HTML file: inline SVG charts, no network requests, and no script from the data.

The content security policy allows only the style and the script of the template, by their hashes. Data is escaped by
Jinja2 after its control and direction characters are made visible.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from ftpipe.formatting import format_money, plural, sanitize_line
from ftpipe.records import CostEstimate, DatasetHistograms, HistogramBin, Report
from ftpipe.records.token_mask import TokenMask
from ftpipe.reports.findings import group_by_hint, headline, sort_by_severity
from ftpipe.reports.token_mask import MAX_SHOWN_TOKENS, MEANINGS, mask_title

if TYPE_CHECKING:
    import jinja2

CHART_WIDTH, BASELINE, MAX_BAR_WIDTH = 640, 172, 107
"""Pixels."""


class Column(NamedTuple):
    """One bar of a histogram, in pixels."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Histogram(NamedTuple):
    """A histogram, ready to draw."""

    columns: list[Column]
    first: str
    last: str
    highest: int


class LabelBar(NamedTuple):
    """One horizontal bar."""

    label: str
    number: str
    width: float


def to_histogram(bins: tuple[HistogramBin, ...]) -> Histogram | None:
    """The histogram of some bins; ``None`` if there are none."""
    if not bins:
        return None
    highest = max(item.count for item in bins) or 1
    step = min(CHART_WIDTH / len(bins), MAX_BAR_WIDTH)
    columns = []
    for index, item in enumerate(bins):
        height = round(item.count / highest * (BASELINE - 12), 1)
        title = f"{item.label}: {plural(item.count, 'record')}"
        columns.append(
            Column(round(index * step + 1, 1), BASELINE - height, round(max(1.0, step - 2), 1), height, title)
        )
    return Histogram(columns, bins[0].label, bins[-1].label, highest)


def label_bars(bins: tuple[HistogramBin, ...]) -> list[LabelBar]:
    """The most frequent answers as horizontal bars."""
    highest = max((item.count for item in bins), default=1)
    return [
        LabelBar(sanitize_line(item.label, 60), f"{item.count:,}", round(item.count / highest * 300, 1))
        for item in bins
    ]


def cost_rows(costs: tuple[CostEstimate, ...]) -> list[dict[str, str]]:
    """The rows of the cost table."""
    return [
        {
            "model": cost.model,
            "epochs": f"{cost.epochs_low}–{cost.epochs_high}"
            if cost.epochs_low != cost.epochs_high
            else str(cost.epochs),
            "low": f"{cost.at_least}{format_money(cost.low, cost.currency)}",
            "expected": f"{cost.at_least}{format_money(cost.expected, cost.currency)}",
            "high": f"{cost.at_least}{format_money(cost.high, cost.currency)}",
            "price": f"{cost.price_per_million:g}" if cost.price_per_million is not None else "?",
            "as_of": cost.price_as_of or "",
        }
        for cost in costs
    ]


def _csp_hash(text: str) -> str:
    """The source expression that allows an inline style or script."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clean"] = sanitize_line
    return environment.from_string(_part("page.html.j2"))


def _part(name: str) -> str:
    return files("ftpipe.reports").joinpath("templates", "dataset", name).read_text(encoding="utf-8")


def html(report: Report, costs: tuple[CostEstimate, ...] = (), masks: tuple[TokenMask, ...] = ()) -> str:
    """The report as one HTML document without external files.

    Args:
        report: From ``validate`` and ``count``.
        costs: From ``ftpipe.stages.count.cost_by_model``.
        masks: From ``ftpipe.dataset.token_mask.token_masks``.
    """
    histograms = report.histograms or DatasetHistograms()
    style, script = _part("page.css"), _part("page.js")
    return _template().render(
        report=report,
        headline=headline(report),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_csp_hash(style)}; script-src {_csp_hash(script)}; base-uri 'none'",
        tokens=to_histogram(histograms.tokens),
        trained=to_histogram(histograms.trained),
        turns=to_histogram(histograms.turns),
        labels=label_bars(histograms.labels),
        costs=cost_rows(costs),
        groups=sort_by_severity(report),
        group_by_hint=group_by_hint,
        masks=[(mask, mask_title(mask), mask.tokens[:MAX_SHOWN_TOKENS]) for mask in masks],
        meanings=MEANINGS,
    )
