"""Deployments as text: what serves which model, and what an hour costs."""

from __future__ import annotations

from collections.abc import Sequence

from ftpipe.formatting import Styler, duration, fit_table, format_money, sanitize_line, unstyled
from ftpipe.records.deployment import Deployment, DeploymentOption

STATE_STYLES = {"ready": "ok", "failed": "error", "starting": "info"}


def price_text(price: float | None) -> str:
    """``5.49 USD per hour``."""
    return "an unknown price per hour" if price is None else f"{format_money(price, 'USD')} per hour"


def option_line(option: DeploymentOption, *, is_chosen: bool) -> str:
    """One way to serve a model."""
    return f"{'→' if is_chosen else ' '} {sanitize_line(option.hardware, 60)}: {price_text(option.price_per_hour)}"


def deployment_table(
    deployments: Sequence[Deployment], *, now: float, width: int | None = None, style: Styler = unstyled
) -> list[str]:
    """Deployments as a table, one row each."""
    rows = [("deployment", "state", "price", "for", "provider", "hardware", "model")]
    rows += [
        (
            sanitize_line(one.name, 60),
            sanitize_line(one.state, 20),
            price_text(one.price_per_hour) if one.is_billed else "nothing",
            duration(now - one.created_at) if one.is_billed and one.created_at else "",
            sanitize_line(one.provider, 30),
            sanitize_line(one.hardware, 40),
            sanitize_line(one.model, 80),
        )
        for one in deployments
    ]
    return fit_table(rows, width=width, drop=(5, 4, 3), style=style)


def billing_lines(deployments: Sequence[Deployment], style: Styler = unstyled) -> list[str]:
    """A line for each deployment that may cost something now, and how to stop it."""
    return [
        f"{style('warning', 'billed')}  {sanitize_line(one.name, 60)} at {sanitize_line(one.provider, 30)}, "
        f"{price_text(one.price_per_hour)}, {sanitize_line(one.state, 20)}: "
        f"`ftpipe deployments stop {sanitize_line(one.name, 60)}`"
        for one in deployments
    ]
