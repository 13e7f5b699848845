"""``ftpipe explain``: what a rule, an endpoint's error code or an exit code means, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ftpipe import errors
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import FtpipeError, UsageError
from ftpipe.formatting import Styler, format_fields, format_table
from ftpipe.reports.error_codes import ERROR_EXPLANATIONS
from ftpipe.suggestions import nearest_dotted_name

if TYPE_CHECKING:
    from ftpipe.dataset.rules.base import Rule

EVIDENCE = {"observed": "seen in the field", "documented": "documented", "inferred": "concluded, not documented"}


@click.command(cls=Command, example="ftpipe explain FT204\nftpipe explain training_not_available\nftpipe explain 7")
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="Every rule of the dataset checks, in full.")
@click.option(
    "--output-format",
    type=click.Choice(("text", "md")),
    default="text",
    show_default=True,
    help="With --all: for people, or as the Markdown page of the catalogue.",
)
@pass_cli_context
def explain(context: CliContext, code: str | None, everything: bool, output_format: str) -> None:
    """Explain CODE: a rule's code or name, an endpoint's error code, or an exit code. Without CODE list the rules."""
    from ftpipe.dataset.rules import NOT_CHECKED, all_rules, find_rule

    if everything or output_format == "md":
        explain_all(context, output_format)
    elif code is None:
        rules = {rule.code: rule for rule in all_rules()}.values()
        context.add(rules=[{"code": rule.code, "name": rule.name, "severity": rule.level} for rule in rules])
        context.print_result(format_table((rule.code, rule.level, rule.name, rule.text.what) for rule in rules))
    elif (rule := find_rule(code)) is not None:
        context.add(**rule_fields(rule))
        context.print_result(rule_lines(rule, context.style))
    elif code.upper() in NOT_CHECKED:
        name, why = NOT_CHECKED[code.upper()]
        context.add(code=code.upper(), name=name, why_not=why)
        context.print_result([context.style("bold", f"{code.upper()} {name}"), f"  not checked here: {why}"])
    elif (meaning := ERROR_EXPLANATIONS.get(code)) is not None:
        context.add(code=code, **asdict(meaning))
        context.print_result([context.style("bold", code), f"  {meaning.what}", f"  next: {meaning.next}"])
    elif code.isdigit() and (found := list(exit_codes(int(code)))):
        context.add(code=int(code), meanings=found)
        context.print_result([context.style("bold", f"exit code {code}"), *(f"  {line}" for line in found)])
    else:
        names = [word for rule in all_rules() for word in (rule.code, rule.name)]
        near = nearest_dotted_name(code.upper(), names) or nearest_dotted_name(
            code.lower(), [*names, *ERROR_EXPLANATIONS]
        )
        raise UsageError(f"nothing has the code {code!r}", f"did you mean {near}?" if near else "ftpipe explain")


def explain_all(context: CliContext, form: str) -> None:
    """The whole catalogue, as text or as a page."""
    from ftpipe.dataset.rules import all_rules
    from ftpipe.dataset.rules.docs import markdown

    rules = {rule.code: rule for rule in reversed(all_rules())}
    every = [rules[code] for code in sorted(rules)]
    context.add(rules=[rule_fields(rule) for rule in every])
    if form == "md":
        context.print_result(markdown().rstrip("\n"))
        return
    for rule in every:
        context.print_result([*rule_lines(rule, context.style), ""])


def rule_fields(rule: Rule) -> dict[str, object]:
    """A rule as data."""
    from ftpipe.dataset.rules.base import ORIGINS, TARGETS

    return {
        "code": rule.code,
        "name": rule.name,
        "severity": {target: rule.level_for(target) for target in TARGETS},
        "origin": ORIGINS[rule.origin],
        "evidence": rule.evidence,
        "fix": rule.fix,
        **asdict(rule.text),
    }


def rule_lines(rule: Rule, paint: Styler) -> list[str]:
    """A rule as text: what, why, fix, source, and how bad it is for whom."""
    from ftpipe.dataset.rules.base import ORIGINS, TARGETS

    text = rule.text
    levels = ", ".join(f"{target} {rule.level_for(target)}" for target in TARGETS)
    rows = [
        ("what", text.what),
        ("why", text.why),
        ("fix", text.fix),
        ("by itself", f"{rule.fix[1]} ({rule.fix[0]}): ftpipe prepare --fix" if rule.fix else ""),
        ("severity", levels),
        ("ground", f"{ORIGINS[rule.origin]}; {EVIDENCE[rule.evidence]}"),
        ("source", text.source),
    ]
    return [
        paint("bold", f"{rule.code} {rule.name}"),
        *format_fields(((f"  {label}", value) for label, value in rows), paint=paint),
    ]


def exit_codes(code: int) -> Iterator[str]:
    """The first lines of every error that ends with this code."""
    if code == 0:
        yield "all is well"
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, FtpipeError) and kind.exit_code == code and kind.__doc__:
            yield f"{kind.code}: {kind.__doc__.splitlines()[0]}"
