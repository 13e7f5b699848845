"""``ftpipe models compare``: two models side by side, and what evaluations said about them."""

from __future__ import annotations

import click

from ftpipe.cli.group import Command
from ftpipe.cli.session import CliContext, pass_session


@click.command(cls=Command, example="ftpipe models compare support-bot@production ft:…")
@click.argument("first")
@click.argument("second")
@pass_session
def compare(session: CliContext, first: str, second: str) -> None:
    """Show where FIRST and SECOND differ, and who was better where both were evaluated."""
    from ftpipe.reports.evaluation.short import comparison_lines
    from ftpipe.reports.models import difference_lines

    registry = session.registry()
    one, other = registry.model(first), registry.model(second)
    # a checkpoint answers under its own name, and is judged under it
    sides = [
        name if name in {checkpoint.model for checkpoint in model.checkpoints} else model.id
        for name, model in ((first, one), (second, other))
    ]
    judged = registry.evaluations(*sides)
    session.add(models=[one, other], evaluations=judged)
    session.print_result(difference_lines(one, other, session.style))
    session.print_result(comparison_lines(judged, sides, session.style))
    if not judged:
        session.print_status(
            f"no evaluation has both; ftpipe evaluate {second} --against {first} --data FILE makes one"
        )
