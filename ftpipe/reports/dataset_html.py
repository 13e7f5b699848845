"""The dataset report as one HTML file: inline pictures, no network, and nothing in the data can run.

The page's policy allows exactly the style and the script that stand here, by their hashes; data goes through Jinja2's
autoescape after control and direction characters were made visible.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from ftpipe.formatting import format_money, sanitize_line
from ftpipe.records import CostEstimate, DatasetHistograms, HistogramBin, Report
from ftpipe.reports.findings import headline, sort_by_severity

if TYPE_CHECKING:
    import jinja2

WIDTH, BASE, MAX_STEP = 640, 172, 107


class Column(NamedTuple):
    """One bar as it is drawn, in pixels of the picture."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Histogram(NamedTuple):
    """A histogram as it is drawn."""

    columns: list[Column]
    first: str
    last: str
    highest: int


class Share(NamedTuple):
    """One row of a bar list."""

    label: str
    number: str
    width: float


def columns(bars: tuple[HistogramBin, ...]) -> Histogram | None:
    """A histogram; ``None`` where there is nothing to draw."""
    if not bars:
        return None
    highest = max(bar.count for bar in bars) or 1
    step = min(WIDTH / len(bars), MAX_STEP)
    drawn = []
    for place, bar in enumerate(bars):
        height = round(bar.count / highest * (BASE - 12), 1)
        title = f"{bar.label}: {bar.count:,} record{'s' if bar.count != 1 else ''}"
        drawn.append(Column(round(place * step + 1, 1), BASE - height, round(max(1.0, step - 2), 1), height, title))
    return Histogram(drawn, bars[0].label, bars[-1].label, highest)


def shares(bars: tuple[HistogramBin, ...]) -> list[Share]:
    """Labels as horizontal bars."""
    highest = max((bar.count for bar in bars), default=1)
    return [Share(sanitize_line(bar.label, 60), f"{bar.count:,}", round(bar.count / highest * 300, 1)) for bar in bars]


def price_rows(costs: tuple[CostEstimate, ...]) -> list[dict[str, str]]:
    """The cost table."""
    return [
        {
            "model": cost.model,
            "epochs": f"{cost.epochs_low}–{cost.epochs_high}"
            if cost.epochs_low != cost.epochs_high
            else str(cost.epochs),
            "low": format_money(cost.low, cost.currency),
            "expected": format_money(cost.expected, cost.currency),
            "high": format_money(cost.high, cost.currency),
            "price": f"{cost.price_per_million:g}" if cost.price_per_million is not None else "?",
            "as_of": cost.price_as_of or "",
        }
        for cost in costs
    ]


def _allowed(text: str) -> str:
    """The source expression of the policy for an inline style or script."""
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


def html(report: Report, picture: DatasetHistograms) -> str:
    """The report as one self-contained HTML document.

    Args:
        report: From ``validate`` and ``count``.
        picture: From ``ftpipe.stages.validate.compute_histograms``.
    """
    style, script = _part("page.css"), _part("page.js")
    return _template().render(
        report=report,
        headline=headline(report),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(script)}; base-uri 'none'",
        tokens=columns(picture.tokens),
        trained=columns(picture.trained),
        turns=columns(picture.turns),
        labels=shares(picture.labels),
        costs=price_rows(picture.costs),
        groups=sort_by_severity(report),
    )
