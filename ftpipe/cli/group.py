"""The shape of every command: groups that load their commands late, shared options, a worked example in each help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from ftpipe.cli.context import CliContext

_SHARED: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--json", "json"), {"is_flag": True, "help": "One JSON document on stdout, and nothing else there."}),
    (("--config", "config_path"), {"metavar": "FILE", "help": "Configuration instead of ./ftpipe.toml."}),
    (("-q", "--quiet", "quiet"), {"is_flag": True, "help": "Only results and errors."}),
    (("-v", "--verbose", "verbose"), {"is_flag": True, "help": "Say more on the way."}),
    (("--no-color", "no_color"), {"is_flag": True, "help": "No colour (as NO_COLOR=1)."}),
    (("--debug", "debug"), {"is_flag": True, "help": "Show the traceback of an error."}),
)


def _remember(ctx: click.Context, parameter: click.Parameter, value: object) -> object:
    context = ctx.ensure_object(CliContext)
    if value and parameter.name:
        setattr(context, parameter.name, value)
    return value


def shared_options(*, hidden: bool = False) -> list[click.Parameter]:
    """The options that every command takes, in the order in which help lists them."""
    return [
        click.Option(list(names), expose_value=False, callback=_remember, hidden=hidden, **settings)
        for names, settings in _SHARED
    ]


def write_example(example: str, formatter: click.HelpFormatter) -> None:
    """Put a worked example under a help page, its lines unwrapped."""
    with formatter.section("Example"):
        for line in example.strip().splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")


class Command(click.Command):
    """A command with the shared options and a worked example under its help.

    Args:
        args: As for :class:`click.Command`.
        example: Command lines to show, one a line.
        kwargs: As for :class:`click.Command`.
    """

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.params = [*self.params, *shared_options()]

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Name the command to the context first, so that even a wrong option is reported under its name."""
        parent = kwargs.get("parent")
        if parent is not None:
            parent.ensure_object(CliContext).command = _dotted(parent, str(args[0]))
        return super().make_context(*args, **kwargs)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as it is to be typed."""
        write_example(self.example, formatter)


def _dotted(parent: click.Context, name: str) -> str:
    return ".".join([*parent.command_path.split()[1:], name])


@click.pass_context
def _help_when_alone(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class Group(click.Group):
    """A group whose commands are imported when they are called, and not before.

    Args:
        args: As for :class:`click.Group`.
        lazy: Name → (``module:attribute``, its line in the list).
        example: As for :class:`Command`.
        kwargs: As for :class:`click.Group`.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], example: str, **kwargs: Any) -> None:
        kwargs = {"callback": _help_when_alone, **kwargs, "invoke_without_command": True, "no_args_is_help": False}
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)
        self.example = example
        self.params = [*self.params, *shared_options(hidden=True)]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that was asked for."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; where there is none, name the nearest one."""
        name = args[0] if args else ""
        if name not in self.lazy and not name.startswith("-"):
            from ftpipe.suggestions import nearest_name

            nearest = nearest_name(name, self.lazy)
            hint = (
                f"did you mean `{ctx.command_path} {nearest}`?"
                if nearest
                else f"`{ctx.command_path} --help` lists them"
            )
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing one of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.lazy.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as it is to be typed."""
        write_example(self.example, formatter)
