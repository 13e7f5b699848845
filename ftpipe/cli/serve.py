"""``ftpipe serve``: the embedded endpoint in this terminal, and a look at the one in the background."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from ftpipe.cli.group import Command, Group
from ftpipe.cli.session import Session, pass_session
from ftpipe.errors import StateError, UsageError
from ftpipe.paths import server_dir
from ftpipe.reports.plain import clean, clean_block, moment

STOP_SECONDS = 20.0
"""How long a server may take to stop; a trainer writes its state first."""
_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where its files and jobs lie."
)


@click.group(
    "serve",
    cls=Group,
    lazy={
        "status": ("ftpipe.cli.serve:serve_status", "Whether it runs, and where."),
        "stop": ("ftpipe.cli.serve:stop", "Stop the one that runs; jobs go on at the next start."),
        "logs": ("ftpipe.cli.serve:logs", "What it wrote."),
    },
    example="ftpipe serve --port 8321\nOPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=none python script.py",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; others than loopback need keys.")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0 takes any free port.")
@_data_dir
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Lines of owner:key.")
@click.option("--max-jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Jobs that train at once.")
@click.option("--engine", type=click.Choice(["process", "ray"]), default="process", help="What runs the trainer.")
@click.option("--ray-address", metavar="ADDRESS", help="A Ray cluster, for --engine ray.")
@click.option("--no-stand-ins", is_flag=True, help="Refuse OpenAI's base names instead of serving the default base.")
@click.pass_context
def serve(context: click.Context, /, data_dir: Path | None, no_stand_ins: bool, **flags: Any) -> None:
    """Run the embedded endpoint: files, fine-tuning jobs, models and chat, in the shape of the OpenAI API.

    It listens on loopback and needs no key there. Jobs and files survive a restart. Ctrl-C stops it.
    """
    if context.invoked_subcommand is not None:
        return
    from ftpipe.server.app import serve as listen
    from ftpipe.server.settings import ServeSettings

    session = context.ensure_object(Session)
    session.stopped, session.come_back = "the endpoint has stopped", "unfinished jobs go on at the next `ftpipe serve`"
    listen(ServeSettings(data_dir=(data_dir or server_dir()).absolute(), stand_ins=not no_stand_ins, **flags))


def card_of(folder: Path) -> dict[str, Any] | None:
    """What the running server wrote about itself; ``None`` where none runs."""
    from ftpipe.providers.local import running_url

    if running_url(folder) is None:
        return None
    card: dict[str, Any] = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    return card


@click.command("status", cls=Command, example="ftpipe serve status --json")
@_data_dir
@pass_session
def serve_status(session: Session, data_dir: Path | None) -> None:
    """Show whether the endpoint runs, and how to reach it; ends with 1 where it does not."""
    folder = data_dir or server_dir()
    card = card_of(folder)
    session.add(running=card is not None, data_dir=folder, server=card)
    if card is None:
        session.out(f"not running; its data lie in {clean(folder, 300)}")
        session.say(f"{session.paint_err('bold', 'Next:')} ftpipe serve   (ftpipe train starts it by itself)")
        session.exit_code = 1
        return
    token = folder / "token"
    session.out(
        [
            f"running     {clean(card['base_url'], 200)}",
            f"process     {card['pid']}, since {moment(int(card.get('started_at', 0)))}",
            f"data        {clean(folder, 300)}",
            f"key         in {clean(token, 300)}" if token.exists() else "key         any, or none",
        ]
    )


@click.command(cls=Command, example="ftpipe serve stop")
@_data_dir
@pass_session
def stop(session: Session, data_dir: Path | None) -> None:
    """Stop the running endpoint; unfinished jobs go on when it starts again."""
    folder = data_dir or server_dir()
    card = card_of(folder)
    session.add(stopped=card is not None)
    if card is None:
        session.out("it was not running")
        return
    pid = int(card["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if card_of(folder) is None:
            session.out(f"stopped process {pid}")
            return
        time.sleep(0.1)
    raise StateError(f"process {pid} is still there after {STOP_SECONDS:.0f} seconds", "look at `ftpipe serve logs`")


@click.command(cls=Command, example="ftpipe serve logs --follow")
@_data_dir
@click.option(
    "-n", "--lines", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many, from the end."
)
@click.option("-f", "--follow", is_flag=True, help="Stay, and show what comes.")
@pass_session
def logs(session: Session, data_dir: Path | None, lines: int, follow: bool) -> None:
    """Show the end of the endpoint's log."""
    path = (data_dir or server_dir()) / "server.log"
    if not path.is_file():
        raise UsageError(f"there is no log at {path}", "ftpipe serve writes one")
    with path.open(encoding="utf-8", errors="replace") as stream:
        last = [line.rstrip("\n") for line in deque(stream, maxlen=lines)]
        session.add(path=path, lines=last)
        session.out(clean_block(line) for line in last)
        session.stopped = "no longer following the log"
        for line in _growing(stream) if follow and not session.json else ():
            session.out(clean_block(line))


def _growing(stream: TextIO) -> Iterator[str]:
    while True:
        line = stream.readline()
        if line:
            yield line.rstrip("\n")
        else:
            time.sleep(0.5)
