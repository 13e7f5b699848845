"""Base classes of all commands: lazily imported commands, the shared options, an example in each help page."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ftpipe.cli.context import CliContext
from ftpipe.cli.options import FILE, OutputFile, force
from ftpipe.errors import UsageError
from ftpipe.output_files import check_outputs

_SHARED: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--json", "json"), {"is_flag": True, "help": "Write one JSON document to stdout and nothing else."}),
    (("--config", "config_path"), {"metavar": "FILE", "help": "Configuration file.  [default: ./ftpipe.toml]"}),
    (
        ("--registry", "registry_url"),
        {"metavar": "PATH", "help": "Registry: a file or a postgresql:// URL.  [default: .ftpipe/registry.db]"},
    ),
    (("-q", "--quiet", "quiet"), {"is_flag": True, "help": "Show only results and errors."}),
    (("-v", "--verbose", "verbose"), {"is_flag": True, "help": "Show more details."}),
    (("--no-color", "no_color"), {"is_flag": True, "help": "Turn off colours; NO_COLOR=1 does the same."}),
    (("--debug", "debug"), {"is_flag": True, "help": "Show the traceback of an error."}),
)


def _set_on_context(ctx: click.Context, parameter: click.Parameter, value: object) -> object:
    context = ctx.ensure_object(CliContext)
    if value and parameter.name:
        setattr(context, parameter.name, value)
    return value


def shared_options(*, hidden: bool = False) -> list[click.Parameter]:
    """Create the options that every command takes, in the order of the help page."""
    return [
        click.Option(list(names), expose_value=False, callback=_set_on_context, hidden=hidden, **settings)
        for names, settings in _SHARED
    ]


def write_example(example: str, formatter: click.HelpFormatter) -> None:
    """Write an example section, with its lines unwrapped."""
    with formatter.section("Example"):
        for line in example.strip().splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")


OptionGroups = Mapping[str, tuple[str, ...]]
"""Title of a section in a long help page → names of its parameters."""


def write_options(
    command: click.Command, groups: OptionGroups, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write the options in sections; those of no group come last."""
    records = {
        str(param.name): record
        for param in command.get_params(ctx)
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None
    }
    for title, names in groups.items():
        with formatter.section(title):
            formatter.write_dl([records.pop(name) for name in names if name in records])
    with formatter.section("Other options" if groups else "Options"):
        formatter.write_dl(list(records.values()))


class Command(click.Command):
    """A command with the shared options and an example in its help page.

    Args:
        args: As for :class:`click.Command`.
        example: Command lines, one per line.
        groups: Sections of a long help page.
        kwargs: As for :class:`click.Command`.
    """

    def __init__(self, *args: Any, example: str, groups: OptionGroups | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.groups = groups or {}
        if any(isinstance(parameter.type, OutputFile) for parameter in self.params):
            force(self)
        self.params = [*self.params, *shared_options()]

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # as click declares it
        """Run the command, unless an option names an output file that exists or is an input.

        Raises:
            UsageError: An output would overwrite a file.
        """
        context = ctx.ensure_object(CliContext)
        paths: dict[bool, list[tuple[str, Path]]] = {True: [], False: []}
        for parameter in self.params:
            if parameter.type is not FILE and not isinstance(parameter.type, OutputFile):
                continue
            value = ctx.params.get(parameter.name or "")
            values = value if isinstance(value, tuple) else (value,) if value is not None else ()
            paths[isinstance(parameter.type, OutputFile)] += [(parameter.opts[-1], path) for path in values]
        inputs = [path for _, path in paths[False]]
        check_outputs(paths[True], inputs=[*inputs, Path(context.config_path or "ftpipe.toml")], force=context.force)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their sections."""
        write_options(self, self.groups, ctx, formatter)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Set the command name before parsing, so that a usage error is reported under it."""
        parent = kwargs.get("parent")
        if parent is not None:
            parent.ensure_object(CliContext).command = _dotted(parent, str(args[0]))
        return super().make_context(*args, **kwargs)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example section."""
        write_example(self.example, formatter)


def _dotted(parent: click.Context, name: str) -> str:
    return ".".join([*parent.command_path.split()[1:], name])


@click.pass_context
def _show_help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        if ctx.ensure_object(CliContext).json:
            raise UsageError("no command was given", f"see `{ctx.command_path} --help`")
        click.echo(ctx.get_help())


class Group(click.Group):
    """A group that imports a command only when it is called.

    Args:
        args: As for :class:`click.Group`.
        lazy: Name → (``module:attribute``, one-line help).
        example: As for :class:`Command`.
        groups: As for :class:`Command`.
        kwargs: As for :class:`click.Group`.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        example: str,
        groups: OptionGroups | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = {"callback": _show_help, **kwargs, "invoke_without_command": True, "no_args_is_help": False}
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)
        self.example = example
        self.groups = groups or {}
        self.params = [*self.params, *shared_options(hidden=True)]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List all commands in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest the nearest name if there is none.

        Raises:
            UsageError: There is no such command.
        """
        name = args[0] if args else ""
        if name not in self.lazy and not name.startswith("-"):
            from ftpipe.suggestions import nearest_name

            nearest = nearest_name(name, self.lazy)
            hint = f"did you mean `{ctx.command_path} {nearest}`?" if nearest else f"see `{ctx.command_path} --help`"
            raise UsageError(f"there is no command {name!r}", hint)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their sections, then the commands."""
        write_options(self, self.groups, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.lazy.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example section."""
        write_example(self.example, formatter)
