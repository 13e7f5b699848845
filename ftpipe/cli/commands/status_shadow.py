"""``ftpipe status --shadow``: what shadow traffic has shown so far."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import DEFAULT_COLUMNS, CliContext
from ftpipe.errors import UsageError
from ftpipe.paths import server_dir

shadow_status_options = shared.combine_options(
    click.option("--shadow", is_flag=True, help="Show what `ftpipe serve --shadow` has compared."),
    click.option(
        "--margin",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="X",
        help="With --shadow: largest difference that does not matter.  [default: 0.05]",
    ),
    click.option("--data-dir", type=shared.FOLDER, metavar="DIR", help="With --shadow: folder of the server."),
)


def refuse_shadow_options(margin: float | None, data_dir: Path | None) -> None:
    """Refuse options that have no meaning for a run.

    Raises:
        UsageError: One was given.
    """
    if margin is not None or data_dir is not None:
        raise UsageError("--margin and --data-dir need --shadow", "add --shadow")


def show_shadow_status(context: CliContext, data_dir: Path | None, margin: float | None) -> None:
    """Write the comparisons of all owners and pairs of a server.

    Raises:
        UsageError: Nothing was mirrored yet.
    """
    from ftpipe.pipeline.shadow_status import DEFAULT_MARGIN, shadow_statuses
    from ftpipe.reports.shadow import shadow_lines

    folder = data_dir or server_dir()
    statuses = shadow_statuses(folder, margin=margin or DEFAULT_MARGIN)
    if not statuses:
        raise UsageError(
            f"no chat was mirrored yet in {folder}", "start the server with `ftpipe serve --shadow OLD=NEW`"
        )
    context.add(shadow=[status.model_dump(mode="json") for status in statuses])
    width = context.width or DEFAULT_COLUMNS
    for index, status in enumerate(statuses):
        context.print_result([""] * (index > 0))
        context.print_result(shadow_lines(status, context.style, now=time.time(), width=width))
