"""``ftpipe models download``: the adapter of a tuned model from a host that gives weights away."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.formatting import format_bytes, relative_path, sanitize_line

PROGRESS_SECONDS = 2.0
"""A line about the download is written at most so often."""


@click.command(cls=Command, example="ftpipe models download support-bot@production adapter/")
@click.argument("model")
@click.argument("folder", type=shared.FOLDER)
@shared.trust_host
@pass_cli_context
def download(context: CliContext, model: str, folder: Path) -> None:
    """Download the adapter of MODEL (a name, alias or job id) into FOLDER, which is created or empty.

    Together and Fireworks give you the weights of models that were tuned there; OpenAI and Azure do not.
    """
    settings = context.settings()
    record = context.registry(settings, read_only=True).models.get(model)
    require_empty(folder)
    provider = context.provider(record.provider, settings)
    shown_at = time.monotonic()

    def on_bytes(done: int, total: int | None) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PROGRESS_SECONDS:
            shown_at = time.monotonic()
            context.print_status(f"{format_bytes(done)}{f' of {format_bytes(total)}' if total else ''}")

    with context.interruptible(f"interrupted; {folder} is not complete"):
        files = provider.jobs.download_weights(record.job_id, folder, on_bytes=on_bytes)
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    context.add(model=record.id, folder=folder, files=sizes)
    context.print_result(
        f"{sanitize_line(relative_path(folder / name), 200)}  {format_bytes(size)}" for name, size in sizes.items()
    )


def require_empty(folder: Path) -> None:
    """Create a folder; no file of it would be overwritten.

    Raises:
        UsageError: It has files.
        LocalStateError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        has_files = next(folder.iterdir(), None) is not None
    except OSError as exc:
        raise LocalStateError(f"cannot use {folder}: {exc.strerror}", "name a folder that you can write to") from exc
    if has_files:
        raise UsageError(f"{folder} is not empty", "name a new folder; nothing is overwritten")
