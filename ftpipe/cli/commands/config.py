"""``ftpipe config``: every setting with its value and its origin, without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.config import RunConfig, Settings, setting_keys
from ftpipe.formatting import format_table, sanitize_line
from ftpipe.paths import home, state_dir
from ftpipe.reports.json_output import plain_data

config = Group(
    name="config",
    help="Show the settings and where each value comes from.",
    lazy={
        "show": ("ftpipe.cli.commands.config:show", "Show every setting, its value and its origin."),
        "path": ("ftpipe.cli.commands.config:path", "Show the files and folders that ftpipe uses."),
    },
    example="ftpipe config show --config configs/local.toml",
)
_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*@")


def rows_of(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """Yield key, value and origin of every setting; a password in a URL is hidden."""
    for key in setting_keys():
        value = _value(settings.config, key)
        if key == "registry" and isinstance(value, str):
            value = _PASSWORD.sub(r"\1***@", value)
        yield key, plain_data(value), settings.origins.get(key, "default")


def _value(config: RunConfig, key: str) -> object:
    table_name, _, leaf = key.rpartition(".")
    return getattr(getattr(config, table_name) if table_name else config, leaf)


@click.command(cls=Command, example="ftpipe config show\nFTPIPE_EPOCHS=3 ftpipe config show --json")
@pass_cli_context
def show(context: CliContext) -> None:
    """Show every setting, its value, and where the value comes from."""
    rows = list(rows_of(context.settings()))
    context.add(settings={key: {"value": value, "origin": origin} for key, value, origin in rows})
    shown = [(key, _text(value), context.style("dim", sanitize_line(origin, 120))) for key, value, origin in rows]
    context.print_result(format_table(shown))


def _text(value: object) -> str:
    if value in (None, {}, []):
        return "–"
    return sanitize_line(value if isinstance(value, str) else json.dumps(value), 120)


@click.command(cls=Command, example="ftpipe config path")
@pass_cli_context
def path(context: CliContext) -> None:
    """Show the files and folders that ftpipe uses in this folder."""
    settings = context.settings()
    paths = {
        "config": settings.path,
        "state": state_dir(),
        "registry": settings.config.registry or state_dir() / "registry.db",
        "home": home(),
    }
    shown = {name: _PASSWORD.sub(r"\1***@", str(value)) if value else None for name, value in paths.items()}
    context.add(paths=shown)
    labels = {"home": "server and models"}
    context.print_result(
        format_table((labels.get(name, name), sanitize_line(value or "none", 300)) for name, value in shown.items())
    )
