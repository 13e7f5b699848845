"""Comparisons of shadow traffic as text."""

from __future__ import annotations

from ftpipe.formatting import (
    Styler,
    count,
    duration,
    format_fields,
    format_money,
    format_time,
    plural,
    sanitize_line,
    unstyled,
)
from ftpipe.records.shadow import Estimate, Percentiles, ShadowStatus

MIN_SHADOW_DAYS = 14
"""Two weeks, so that each day of the week was seen twice; guides to the shutdown advise two to four."""
MAX_ERRORS_SHOWN = 5
DAY_SECONDS = 86_400


def shadow_lines(
    status: ShadowStatus, style: Styler = unstyled, *, now: float, width: int = 100, currency: str = "USD"
) -> list[str]:
    """One comparison.

    Args:
        status: The comparison.
        style: Styles labels and the verdict.
        now: The time, in seconds since 1970.
        width: Columns of the terminal.
        currency: Of the costs.
    """
    title = f"{sanitize_line(status.old, 100)} → {sanitize_line(status.new, 100)}"
    color = {"no_difference": "ok", "undecided": "info"}.get(status.verdict, "warning")
    rows = [
        ("owner", "" if status.owner == "local" else sanitize_line(status.owner, 60)),
        ("verdict", verdict_text(status)),
        ("agreement", agreement_text(status)),
        ("scores", scores_text(status)),
        ("latency", latency_text(status)),
        ("tokens", tokens_text(status)),
        ("cost", cost_text(status, currency)),
        ("chats", chats_text(status)),
        ("errors", errors_text(status)),
        ("since", f"{format_time(status.started_at)}, for {duration(now - status.started_at)}; {advice(status, now)}"),
    ]
    lines = format_fields(rows, width=width, style=style)
    return [style("bold", title), *(style(color, line) if line.startswith("verdict") else line for line in lines)]


def verdict_text(status: ShadowStatus) -> str:
    """What is known, in a sentence."""
    points = f"{100 * status.margin:g} points"
    if status.verdict == "no_difference":
        if status.measure == "disagreement":
            return f"no difference above {points}: fewer than {100 * status.margin:g} % of the answers differ"
        return f"no difference above {points}"
    if status.verdict == "undecided":
        if status.more_requests is None:
            return "keep watching"
        return f"keep watching: about {plural(status.more_requests, 'more mirrored chat')} expected"
    if status.measure == "score":
        return f"differs: the new model scores {status.verdict}"
    if status.measure == "extra_disagreement":
        how = "more" if status.verdict == "higher" else "less"
        return f"differs: the new model's answers differ {how} often than the old one's second answers"
    return f"differs: more than {100 * status.margin:g} % of the answers differ"


def agreement_text(status: ShadowStatus) -> str:
    """How often the answers agree, with the interval."""
    if not status.agreement.outcomes:
        return "no answers yet"
    text = f"{percent(status.agreement)} of {plural(status.agreement.outcomes, 'answer')}"
    if status.different_chats < status.agreement.outcomes:
        text += f" to {plural(status.different_chats, 'different chat')}"
    if status.repeat_agreement is not None:
        text += f"; the old model agrees with itself in {percent(status.repeat_agreement)}"
    return text


def scores_text(status: ShadowStatus) -> str:
    """Both scores and their difference; empty without a grader."""
    if status.old_score is None or status.new_score is None or status.difference is None:
        return ""
    difference = status.difference
    return (
        f"old {status.old_score:.3f}, new {status.new_score:.3f}: "
        f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    )


def latency_text(status: ShadowStatus) -> str:
    """Percentiles of both, and the ratio."""
    ratio = status.latency_ratio
    if ratio.value is None:
        return ""
    return (
        f"old {seconds_text(status.old_latency)}, new {seconds_text(status.new_latency)}; "
        f"new takes {ratio.value:.2f} times as long ({ratio.low:.2f} to {ratio.high:.2f})"
    )


def seconds_text(percentiles: Percentiles) -> str:
    """Median and 95th percentile."""
    if percentiles.p50 is None or percentiles.p95 is None:
        return "–"
    return f"{percentiles.p50:.2f} s (95 % within {percentiles.p95:.2f} s)"


def tokens_text(status: ShadowStatus) -> str:
    """Completion tokens of an answer."""
    if status.old_tokens is None or status.new_tokens is None:
        return ""
    return f"old {status.old_tokens:.0f}, new {status.new_tokens:.0f} per answer"


def cost_text(status: ShadowStatus, currency: str) -> str:
    """What the mirrored chats cost; empty if nothing is known to cost anything."""
    parts = []
    if status.old_cost is not None and status.mirrored:
        parts.append(f"old {format_money(status.old_cost, currency)} at OpenAI's price")
    if parts or status.new_cost:
        parts.append(f"new {format_money(status.new_cost, currency)}")
    return ", ".join(parts)


def chats_text(status: ShadowStatus) -> str:
    """How many chats there were, and what became of those of the share."""
    parts = [
        plural(status.chats, "chat"),
        f"{count(status.mirrored)} mirrored (share {100 * status.share:g} %)",
        f"{count(status.failed)} without an answer",
        f"{count(status.dropped)} dropped",
    ]
    if status.interrupted:
        parts.append(f"{count(status.interrupted)} unfinished")
    if status.unpaid:
        parts.append(f"{count(status.unpaid)} not sent (see --shadow-price, --shadow-max-cost)")
    return ", ".join(parts)


def errors_text(status: ShadowStatus) -> str:
    """Why the new model did not answer."""
    often = sorted(status.errors.items(), key=lambda error: -error[1])[:MAX_ERRORS_SHOWN]
    return ", ".join(f"{sanitize_line(code, 60)} ({count(number)})" for code, number in often)


def advice(status: ShadowStatus, now: float) -> str:
    """How long to go on."""
    first = status.started_at + MIN_SHADOW_DAYS * DAY_SECONDS
    if now < first:
        return (
            f"shadow for two to four weeks before you delete anything, until {format_time(first, '%Y-%m-%d')} at least"
        )
    return "two weeks are over"


def percent(estimate: Estimate) -> str:
    """A rate with its interval."""
    if estimate.value is None:
        return "–"
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f} %)"
