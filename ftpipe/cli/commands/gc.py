"""``ftpipe gc``: delete files of ftpipe that nobody refers to any more."""

from __future__ import annotations

from pathlib import Path

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.formatting import format_bytes, format_table, plural, relative_path, sanitize_line
from ftpipe.paths import default_registry, models_dir, server_dir


@click.command("gc", cls=Command, example="ftpipe gc --dry-run\nftpipe gc --yes")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be deleted, and stop.")
@shared.yes_delete
@pass_cli_context
def gc(context: CliContext, dry_run: bool, yes: bool) -> None:
    """Delete files of ftpipe that nobody refers to any more, after showing them and a question.

    These are prepared files of this project that no run or model was made of, interrupted downloads of the default base
    model, and what crashes left in the folders of ended jobs and deleted models. What a run, a model, an alias or a job
    needs is kept, and so are datasets of your own, lost+found, and the cache of the Hugging Face hub.
    """
    from ftpipe.doctor.garbage import collect, delete
    from ftpipe.registry import open_registry

    registries = [context.registry(read_only=True)]
    if registries[0].location != str(default_registry()):
        registries.append(open_registry(default_registry(), read_only=True))  # runs from before another one was set
    garbage = collect(registries, models_dir=models_dir(), server_dir=server_dir())
    for registry in registries:
        registry.close()
    total = sum(one.bytes for one in garbage)
    items = [{"kind": one.kind, "path": one.path, "bytes": one.bytes, "reason": one.reason} for one in garbage]
    context.add(garbage=items, bytes=total, deleted=False)
    rows = ((format_bytes(one.bytes), sanitize_line(relative_path(one.path), 300), one.reason) for one in garbage)
    context.print_result(format_table(rows, right=(0,)) if garbage else "nothing to delete")
    if not garbage:
        return
    summary = f"{plural(len(garbage), 'item')} ({format_bytes(total)})"
    if dry_run:
        context.print_status(f"{summary} would be deleted")
        return
    context.confirm_deletion(f"Delete {summary} for good?", yes=yes)

    def on_error(path: Path, error: OSError) -> None:
        context.exit_code = 1
        context.print_always(f"{sanitize_line(path, 300)} could not be deleted: {error.strerror or error}")

    freed = delete(garbage, server_dir=server_dir(), on_error=on_error)
    context.add(deleted=True, bytes=freed)
    context.print_status(f"{format_bytes(freed)} freed")
