"""``ftpipe config``: every setting with its value and its origin, without secrets; settings for all projects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command, Group
from ftpipe.config import (
    USER_KEYS,
    RunConfig,
    Settings,
    registry_in_use,
    save_user_setting,
    setting_keys,
    user_path,
    without_password,
)
from ftpipe.errors import ConfigError
from ftpipe.formatting import Styler, format_table, relative_path, sanitize_line
from ftpipe.paths import home, state_dir
from ftpipe.reports.json_output import plain_data

config = Group(
    name="config",
    help="Show the settings and where each value comes from, and set some for all projects.",
    lazy={
        "show": ("ftpipe.cli.commands.config:show", "Show every setting, its value and its origin."),
        "path": ("ftpipe.cli.commands.config:path", "Show the files and folders that ftpipe uses."),
        "set": ("ftpipe.cli.commands.config:set_value", "Set a value for all your projects."),
        "prices": ("ftpipe.cli.commands.config_prices:prices", "Show the prices, or load them from a file."),
        "unset": ("ftpipe.cli.commands.config:unset_value", "Take away a value for all your projects."),
    },
    example="ftpipe config show --config configs/local.toml\nftpipe config set registry ~/ftpipe/registry.db",
)


def rows_of(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """Yield key, value and origin of every setting; a password in a URL is hidden."""
    for key in setting_keys():
        value = _value(settings.config, key)
        if key == "registry" and isinstance(value, str):
            value = without_password(value)
        yield key, plain_data(value), settings.origins.get(key, "default")


def _value(config: RunConfig, key: str) -> object:
    table_name, _, leaf = key.rpartition(".")
    return getattr(getattr(config, table_name) if table_name else config, leaf)


@click.command(cls=Command, example="ftpipe config show\nFTPIPE_EPOCHS=3 ftpipe config show --json")
@pass_cli_context
def show(context: CliContext) -> None:
    """Show every setting, its value, and where the value comes from."""
    settings = context.settings()
    rows = list(rows_of(settings))
    context.add(settings={key: {"value": value, "origin": origin} for key, value, origin in rows})
    defaults = default_choices(settings)
    shown = [
        (
            key,
            *(
                defaults[key]
                if value is None and key in defaults
                else (_text(value), sanitize_line(_relative(origin), 120))
            ),
        )
        for key, value, origin in rows
    ]
    for _, table in groupby(shown, key=lambda row: row[0].rpartition(".")[0]):
        context.print_result(setting_lines(list(table), context.style, width=context.width))


def default_choices(settings: Settings) -> dict[str, tuple[str, str]]:
    """The provider and the model that are used if none is set, and why."""
    from ftpipe.cli.dataset_request import LOCAL_PROVIDER, chosen_provider
    from ftpipe.providers.profiles import load_profiles

    try:
        last = chosen_provider(settings)
        profile = load_profiles(settings.config.providers).get(last or LOCAL_PROVIDER)
    except ConfigError:  # shown by the commands that use the provider
        return {}
    if profile is None:
        return {}
    choices = {"provider": (profile.name, "chosen last" if last else "default")}
    if profile.default_model:
        choices["model"] = (sanitize_line(profile.default_model, 120), f"default of {sanitize_line(profile.name, 40)}")
    return choices


def setting_lines(rows: Sequence[tuple[str, str, str]], style: Styler, *, width: int | None) -> Iterator[str]:
    """One line for each setting of a table; value and origin stand below the key if they do not fit beside it."""
    key_width = max(len(key) for key, _, _ in rows)
    fits = [width is None or key_width + len(value) + len(origin) + 4 <= width for _, value, origin in rows]
    fitting = [row for row, fit in zip(rows, fits, strict=True) if fit]
    value_width = max((len(value) for _, value, _ in fitting), default=0)
    if width is not None:
        longest = max((len(origin) for _, _, origin in fitting), default=0)
        value_width = min(value_width, max(0, width - key_width - longest - 4))
    for (key, value, origin), fit in zip(rows, fits, strict=True):
        if fit:
            yield f"{key:<{key_width}}  {value:<{value_width}}  {style('dim', origin)}"
        else:
            yield from (key, f"    {value}", f"    {style('dim', origin)}")


def _text(value: object) -> str:
    if value in (None, {}, []):
        return "–"
    return sanitize_line(_relative(value) if isinstance(value, str) else json.dumps(value), 120)


def _relative(text: str) -> str:
    """A path below the working folder relative to it; any other text unchanged."""
    path = Path(text)
    return str(relative_path(path)) if path.is_absolute() else text


@click.command(cls=Command, example="ftpipe config path")
@pass_cli_context
def path(context: CliContext) -> None:
    """Show the files and folders that ftpipe uses in this folder."""
    settings = context.settings()
    registry, origin = registry_in_use(settings)
    paths = {
        "config": settings.path,
        "user_config": user_path() if user_path().is_file() else None,
        "state": state_dir(),
        "registry": registry,
        "home": home(),
    }
    shown = {name: str(value) if value else None for name, value in paths.items()}
    context.add(paths=shown, registry_origin=origin)
    labels = {"home": "server and models", "user_config": "config for all projects"}
    origins = {"registry": context.style("dim", sanitize_line(origin, 120))}
    context.print_result(
        format_table(
            (labels.get(name, name), sanitize_line(value or "none", 300), origins.get(name, ""))
            for name, value in shown.items()
        )
    )


@click.command(
    "set", cls=Command, example="ftpipe config set registry ~/ftpipe/registry.db\nftpipe config set max_cost 5"
)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@pass_cli_context
def set_value(context: CliContext, key: str, value: str) -> None:
    """Set KEY to VALUE for all your projects: registry, provider or max_cost. ftpipe.toml, variables and flags win."""
    if key == "registry":
        from ftpipe.registry.database import sqlite_path

        sqlite_path(value)  # refuses other databases
    elif key == "provider":
        from ftpipe.providers.profiles import find_profile

        find_profile(value)
    saved = save_user_setting(key, value)
    context.add(key=key, value=saved, path=user_path())
    context.print_result(f"{key} = {sanitize_line(str(saved), 300)}   in {sanitize_line(user_path(), 300)}")


@click.command("unset", cls=Command, example="ftpipe config unset registry")
@click.argument("key", metavar="KEY", type=click.Choice(USER_KEYS))
@pass_cli_context
def unset_value(context: CliContext, key: str) -> None:
    """Take the value of KEY away that was set for all your projects."""
    save_user_setting(key, None)
    context.add(key=key, path=user_path())
    context.print_result(f"{key} is not set for all projects any more")
