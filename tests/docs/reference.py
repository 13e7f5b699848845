"""``python -m tests.docs.reference``: writes the pages of the documentation that are made from the code."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from ftpipe import errors
from ftpipe.cli import root
from ftpipe.cli.group import Group
from ftpipe.reports.provider_error_codes import ERROR_EXPLANATIONS

DOCS = Path(__file__).parents[2] / "docs"

COMMANDS_HEAD = """# Command reference

Generated from `--help` by `python -m tests.docs.reference`; a test compares it with the commands.

Results go to stdout and everything else to stderr. Every command also has these options:

"""

ERRORS_HEAD = """# Exit codes and errors

Generated from `ftpipe/errors.py` by `python -m tests.docs.reference`; a test compares it with the code.
`ftpipe explain CODE` explains an exit code, an error code or a provider's code in the terminal.

An error is two lines on stderr: what happened, and a hint, if possible a command.

```console
$ ftpipe train nothing.jsonl
error: there is no file nothing.jsonl
  next: check the path
```

With `--json` it is in the JSON document on stdout:

```json
{"schema": "ftpipe.train/1", "ok": false,
 "error": {"code": "training_not_available", "message": "…", "hint": "…", "retryable": false, "paid": "no"}}
```

`paid` says whether the call may have cost money: `no`, `yes`, or `unknown`; after `unknown`, `ftpipe resume` finds out
before anything is sent again.

## Exit codes

| exit code | meaning |
|---|---|
"""


def commands(group: Group = root, path: str = "ftpipe") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups before what they hold."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, Group):
            yield from commands(command, f"{path} {name}")


def commands_page() -> str:
    """The command reference."""
    everything = list(commands())
    leaves = [command for _, command in everything if not isinstance(command, Group)]
    shared = functools.reduce(lambda one, other: one & other, (set(_options(command)) for command in leaves))
    rows = [*(row for row in _options(leaves[0]) if row in shared), ("-h, --help", "Show this message and exit.")]
    parts = [COMMANDS_HEAD + _table("option", rows).rstrip()]
    parts += [_command(name, command, shared) for name, command in everything]
    return "\n".join(parts) + "\n"


def _command(name: str, command: click.Command, shared: set[tuple[str, str]]) -> str:
    context = click.Context(command, info_name=name)
    lines = [f"\n{'##' if name.count(' ') == 1 else '###'} {name}\n", f"```\n{_usage(command, context)}\n```\n"]
    lines += [f"{_escape(' '.join(paragraph.split()))}\n" for paragraph in (command.help or "").split("\n\n")]
    if isinstance(command, Group):
        rows = ((f"{name} {sub}", line) for sub, (_, line) in command.lazy.items())
        lines.append(_table("command", rows))
    own = [row for row in _options(command) if row not in shared]
    if own:
        lines.append(_table("option", own))
    example = getattr(command, "example", "")
    if example:
        lines.append(f"```sh\n{example}\n```")
    return "\n".join(lines).rstrip()


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([str(context.info_name), *command.collect_usage_pieces(context)])


def _options(command: click.Command) -> list[tuple[str, str]]:
    """Names and help of the visible options, as ``--help`` shows them, without ``--help`` itself."""
    context = click.Context(command)
    options = (option for option in command.params if isinstance(option, click.Option))
    return [_record(option, record) for option in options if (record := option.get_help_record(context)) is not None]


def _record(option: click.Option, record: tuple[str, str]) -> tuple[str, str]:
    """A choice goes behind the help: as a part of the name it would make the column too wide."""
    names, text = record
    if not isinstance(option.type, click.Choice):
        return names, text
    return names.partition(" [")[0], f"{text} One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"| `{names.replace('|', chr(92) + '|')}` | {_escape(text)} |\n" for names, text in rows)
    return f"| {title} | |\n|---|---|\n{body}"


def _escape(text: str) -> str:
    """Plain text as Markdown; what stands in backticks stays as it is."""
    pieces = " ".join(text.split()).split("`")
    for index in range(0, len(pieces), 2):
        for character in "\\*_<[]":
            pieces[index] = pieces[index].replace(character, f"\\{character}" if character != "<" else "&lt;")
    return "`".join(pieces).replace("|", "\\|")


def error_kinds() -> list[type[errors.FtpipeError]]:
    """Every class of the error tree, in the order of the module."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, errors.FtpipeError)]


def errors_page() -> str:
    """Exit codes, error codes, and what endpoints mean by theirs."""
    parts = [ERRORS_HEAD + "".join(f"| {code} | {meaning} |\n" for code, meaning in errors.EXIT_CODES.items())]
    parts.append("\n## Error codes\n\n| code | exit code | paid | class | meaning |\n|---|---|---|---|---|\n")
    for kind in error_kinds():
        text = " ".join((kind.__doc__ or "").split("\n\n")[0].replace("``", "`").split())
        parts.append(f"| `{kind.code}` | {kind.exit_code} | {kind.paid} | `{kind.__name__}` | {_escape(text)} |\n")
    parts.append(
        "\n## Codes of providers\n\nWhat the code of a failed job or a rejected request means, and what to do next.\n\n"
    )
    parts.append("| code | meaning | next | checks that find it earlier |\n|---|---|---|---|\n")
    for code, meaning in ERROR_EXPLANATIONS.items():
        rules = ", ".join(f"[{rule}](rules.md)" for rule in meaning.rules) or "–"
        parts.append(f"| `{code}` | {_escape(meaning.what)} | {_escape(meaning.next)} | {rules} |\n")
    return "".join(parts)


def rules_page() -> str:
    """The catalogue of the dataset checks, as the command line prints it."""
    result = CliRunner().invoke(root, ["explain", "--all", "--output-format", "md"])
    assert result.exit_code == 0, result.output
    return result.stdout


PAGES = {"commands.md": commands_page, "errors.md": errors_page, "rules.md": rules_page}


if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
