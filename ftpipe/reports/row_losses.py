"""Training rows ranked by their losses: text for a terminal, CSV, and a self-contained HTML page without scripts."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Iterator
from importlib import resources

import jinja2
from markupsafe import Markup

from ftpipe.formatting import (
    Styler,
    count,
    cut_line,
    format_decimal,
    format_table,
    format_time,
    plural,
    sanitize_line,
    unstyled,
)
from ftpipe.records.row_losses import LossRanking, RankedRow
from ftpipe.reports.evaluation.csv import escape_csv_cell

WIDTH, HEIGHT, LEFT, BOTTOM = 640.0, 400.0, 46.0, 30.0
MAX_DOTS = 5000
"""Dots of the chart; the highest rows come first."""
RANKING_LABELS = {
    "tuned": "the tuned model's loss",
    "base": "the base model's loss",
    "delta": "the tuned model's loss minus the base model's",
}
"""Ranking key → its description."""


def loss_lines(ranking: LossRanking, top: int, style: Styler = unstyled, *, width: int | None = None) -> Iterator[str]:
    """The mean losses, and the highest rows.

    Args:
        ranking: The rows.
        top: How many to show.
        style: Styles the header.
        width: Columns of the terminal, at which prompts are cut; ``None`` if there is no limit.
    """
    shown = ranking.rows[:top]
    yield f"{sanitize_line(ranking.data, 80)}: {plural(len(ranking.rows), 'row')}, loss in nats per trained token"
    yield from format_table(
        [
            ("  base", format_decimal(ranking.mean_base_loss), sanitize_line(ranking.baseline, 120)),
            ("  tuned", format_decimal(ranking.mean_tuned_loss), sanitize_line(ranking.model, 120)),
        ],
        right=(1,),
    )
    yield ""
    has_rules = any(row.rule_codes for row in shown)
    header = ["line", "base", "tuned", "delta", *(["rules"] if has_rules else []), "completion", "prompt"]
    first, *rest = format_table([header, *(_cells(row, has_rules, width) for row in shown)], right=range(4))
    yield style("bold", cut_line(first, width))
    yield from (cut_line(line, width) for line in rest)
    if len(ranking.rows) > len(shown):
        hidden = plural(len(ranking.rows) - len(shown), "row")
        yield style("dim", f"… and {hidden} not shown, ranked by {RANKING_LABELS[ranking.rank_by]}")


def _cells(row: RankedRow, has_rules: bool, width: int | None) -> list[str]:
    losses = [format_decimal(row.base_loss, 3), format_decimal(row.tuned_loss, 3), format_delta(row.delta)]
    completion = sanitize_line(row.completion, 44 if width is None else min(44, width // 4))
    rules = [" ".join(row.rule_codes)] if has_rules else []
    return [
        str(row.line),
        *losses,
        *rules,
        completion,
        sanitize_line(row.prompt, 60),
    ]


def format_delta(value: float) -> str:
    """A difference of losses with its sign: ``+0.512``, ``−2.034``."""
    return f"{value:+.3f}".replace("-", "−")


def loss_csv(ranking: LossRanking) -> str:
    """Every row as CSV, in ranking order; no cell is a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["rank", "line", "tokens", "base_loss", "tuned_loss", "delta", "rules", "completion", "prompt"])
    for rank, row in enumerate(ranking.rows, start=1):
        losses = [f"{value:.5f}" for value in (row.base_loss, row.tuned_loss, row.delta)]
        texts = [escape_csv_cell(text) for text in (" ".join(row.rule_codes), row.completion, row.prompt)]
        writer.writerow([rank, row.line, row.tokens, *losses, *texts])
    return stream.getvalue()


def loss_html(ranking: LossRanking, top: int) -> str:
    """The ranking as HTML: a chart of all rows, and a table of the highest.

    Args:
        ranking: The rows.
        top: How many to list and to highlight in the chart.
    """
    style = _text("evaluation", "page.css") + _text("row_losses", "page.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "clean": sanitize_line,
        "count": count,
        "decimal": format_decimal,
        "moment": format_time,
        "plural": plural,
        "signed": format_delta,
    }
    html = environment.from_string(_text("row_losses", "page.html.j2")).render(
        ranking=ranking,
        order=RANKING_LABELS[ranking.rank_by],
        shown=ranking.rows[:top],
        dots=_dots(ranking, top),
        axis_limits=_axis_limits(ranking),
        size=(WIDTH, HEIGHT, LEFT, BOTTOM),
        style=Markup(style),  # noqa: S704  # our own files, no data
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _text(folder: str, name: str) -> str:
    return resources.files("ftpipe.reports").joinpath("templates", folder, name).read_text(encoding="utf-8")


def _axis_limits(ranking: LossRanking) -> tuple[float, float]:
    """The ends of the axes: the largest base and tuned loss."""
    return (
        max([0.01, *(row.base_loss for row in ranking.rows)]),
        max([0.01, *(row.tuned_loss for row in ranking.rows)]),
    )


def _dots(ranking: LossRanking, top: int) -> list[tuple[float, float, str]]:
    """Position and CSS class of each row's dot; highlighted dots come last, so that they are drawn on top."""
    across, up = _axis_limits(ranking)
    dots = []
    for rank, row in enumerate(ranking.rows[:MAX_DOTS]):
        x = LEFT + (WIDTH - LEFT - 12) * row.base_loss / across
        y = 12 + (HEIGHT - BOTTOM - 12) * (1 - row.tuned_loss / up)
        dots.append((x, y, "marked" if rank < top else "other"))
    return dots[::-1]
