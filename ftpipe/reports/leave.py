"""Leaving a provider as one HTML page for the person who decides: dates, models, costs, evidence, and what to do.

The page works offline and runs no script; its content security policy allows only its own style sheet, by hash.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from importlib import resources

import jinja2
from markupsafe import Markup

from ftpipe.formatting import count, format_money, format_time, plural, sanitize_line
from ftpipe.records.leave import LeaveModel, LeaveStage, LeaveState
from ftpipe.reports.evaluation.html import breakable

STAGE_TEXTS = {
    LeaveStage.LISTED: "found, nothing saved yet",
    LeaveStage.BACKED_UP: "saved; not retrained yet",
    LeaveStage.RECORDED: "answers recorded; not retrained yet",
    LeaveStage.TRAINED: "retrained; not compared yet",
    LeaveStage.REJECTED: "the successor is not shown to be good enough",
    LeaveStage.MOVED: "ready: the old name stands for the successor",
}


def leave_html(state: LeaveState, *, today: dt.date) -> str:
    """The page.

    Args:
        state: How far the move is.
        today: The day for which days are counted, in UTC.
    """
    style = _text("evaluation", "page.css") + _text("leave", "page.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "breakable": breakable,
        "clean": sanitize_line,
        "count": count,
        "money": format_money,
        "moment": format_time,
        "percent": lambda value: "–" if value is None else f"{value * 100:.1f} %",
        "points": lambda value: "–" if value is None else f"{value * 100:+.1f}",
        "plural": plural,
    }
    html = environment.from_string(_text("leave", "page.html.j2")).render(
        state=state,
        headline=headline(state),
        days_text=lambda day: days_text(day, today),
        stage_text=stage_text,
        stage_class=stage_class,
        end_dates=sorted({one.shutdown_date for one in state.models if one.shutdown_date}),
        style=Markup(style),  # noqa: S704  # our own files, no data
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def headline(state: LeaveState) -> str:
    """The result in one sentence."""
    total = len(state.models)
    moved = sum(one.stage is LeaveStage.MOVED for one in state.models)
    rejected = sum(one.stage is LeaveStage.REJECTED for one in state.models)
    blocked = sum(bool(one.problem) for one in state.models)
    parts = [f"{moved} of {plural(total, 'model')} can leave {state.title}"]
    if rejected:
        parts.append(f"{rejected} {'has' if rejected == 1 else 'have'} a successor that is not shown to be good enough")
    if blocked:
        parts.append(f"{blocked} {'needs' if blocked == 1 else 'need'} a decision")
    waiting = total - moved - rejected - blocked
    if waiting > 0:
        parts.append(f"{waiting} {'is' if waiting == 1 else 'are'} not finished")
    return "; ".join(parts)


def stage_text(model: LeaveModel) -> str:
    """How far a model is, in words."""
    return f"stopped: {model.problem}" if model.problem else STAGE_TEXTS[model.stage]


def stage_class(model: LeaveModel) -> str:
    """The class of a model's box."""
    if model.problem or model.stage is LeaveStage.REJECTED:
        return "loss"
    return "win" if model.stage is LeaveStage.MOVED else "open"


def days_text(day: str, today: dt.date) -> str:
    """``in 39 days``, ``today``, ``3 days ago``."""
    days = (dt.date.fromisoformat(day) - today).days
    if days == 0:
        return "today"
    return f"in {plural(days, 'day')}" if days > 0 else f"{plural(-days, 'day')} ago"


def _text(folder: str, name: str) -> str:
    return resources.files("ftpipe.reports").joinpath("templates", folder, name).read_text(encoding="utf-8")
