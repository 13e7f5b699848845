"""``ftpipe init``: a commented configuration and an example dataset in the current folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.config import CONFIG_FILE
from ftpipe.errors import LocalStateError, UsageError

FILES = (CONFIG_FILE, "example.jsonl")
"""Files of the package ``ftpipe.cli.example_project`` that are written."""


@click.command(cls=Command, example="ftpipe init\nftpipe prepare\nftpipe train")
@pass_cli_context
def init(context: CliContext) -> None:
    """Write a commented ftpipe.toml and a small example dataset into the current folder.

    A file that exists is left as it is.
    """
    written = [name for name in FILES if write_example_file(name)]
    kept = [name for name in FILES if name not in written]
    context.add(written=written, kept=kept, next="ftpipe prepare")
    if not written:
        raise UsageError(f"{' and '.join(kept)} exist already: nothing was written", "ftpipe prepare")
    context.print_result([f"{name}  written" for name in written] + [f"{name}  exists, left as it is" for name in kept])
    context.print_next("ftpipe prepare")


def write_example_file(name: str) -> bool:
    """Write a file into the current folder; ``False`` if it exists.

    Raises:
        LocalStateError: It cannot be written.
    """
    content = resources.files("ftpipe.cli.example_project").joinpath(name).read_bytes()
    try:
        with Path(name).open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError as exc:
        raise LocalStateError(
            f"{name} cannot be written: {exc.strerror}", "go to a folder that you can write to"
        ) from exc
    return True
