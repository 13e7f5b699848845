"""``ftpipe explain``: explain a rule, an error code of ftpipe or a provider, or an exit code, and how to fix it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ftpipe import errors
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import EXIT_CODES, FtpipeError, UsageError
from ftpipe.formatting import Styler, format_fields, format_table
from ftpipe.reports.provider_error_codes import ERROR_EXPLANATIONS
from ftpipe.suggestions import nearest_dotted_name

if TYPE_CHECKING:
    from ftpipe.dataset.rules.base import Rule

EVIDENCE = {"observed": "observed", "documented": "documented", "inferred": "inferred: no page states it directly"}


@click.command(cls=Command, example="ftpipe explain FT204\nftpipe explain training_not_available\nftpipe explain 7")
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="Explain every rule of the dataset checks.")
@click.option(
    "--output-format",
    type=click.Choice(("text", "md")),
    default="text",
    show_default=True,
    help="Output format of --all; md is the Markdown page of the rule catalogue.",
)
@pass_cli_context
def explain(context: CliContext, code: str | None, everything: bool, output_format: str) -> None:
    """Explain CODE: the code or name of a rule, an error code of ftpipe or a provider, or an exit code.

    Without CODE the rules are listed, with the start of a code (FT2) those that begin with it.
    """
    from ftpipe.dataset.rules import NOT_CHECKED, all_rules, find_rule

    if everything or output_format == "md":
        explain_all(context, output_format)
    elif code is None or is_start_of_codes(code):
        start = (code or "").upper()
        rules = {rule.code: rule for rule in all_rules() if rule.code.startswith(start)}.values()
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
    elif (error := error_classes().get(code)) is not None:
        what = first_sentence(error)
        context.add(code=code, exit_code=error.exit_code, paid=error.paid, what=what)
        context.print_result([context.style("bold", code), f"  {what}", f"  exit code {error.exit_code}"])
    elif code.isdecimal() and (meaning_of_exit := EXIT_CODES.get(int(code))) is not None:
        of_code = [kind for kind in error_classes().values() if kind.exit_code == int(code) and kind is not FtpipeError]
        meanings = [meaning_of_exit, *(f"{kind.code}: {first_sentence(kind)}" for kind in of_code)]
        context.add(code=int(code), meanings=meanings)
        context.print_result([context.style("bold", f"exit code {code}"), *(f"  {line}" for line in meanings)])
    else:
        raise unknown_code(code)


def is_start_of_codes(code: str) -> bool:
    """Whether codes of rules begin with it: ``FT20`` stands for FT201 to FT209."""
    from ftpipe.dataset.rules import codes

    start = code.upper()
    return start.startswith("FT") and start not in codes() and any(one.startswith(start) for one in codes())


def unknown_code(code: str) -> UsageError:
    """The error for a code that does not exist, with the nearest code or name as its hint."""
    from ftpipe.dataset.rules import all_rules

    names = [word for rule in all_rules() for word in (rule.code, rule.name)]
    near = nearest_dotted_name(code.upper(), names) or nearest_dotted_name(
        code.lower(), [*names, *ERROR_EXPLANATIONS, *error_classes()]
    )
    return UsageError(
        f"there is no rule or code {code!r}", f"did you mean {near}?" if near else "run `ftpipe explain` for a list"
    )


def explain_all(context: CliContext, output_format: str) -> None:
    """Write the whole catalogue, as text or as Markdown."""
    from ftpipe.dataset.rules import all_rules
    from ftpipe.dataset.rules.docs import markdown

    rules = {rule.code: rule for rule in reversed(all_rules())}
    ordered = [rules[code] for code in sorted(rules)]
    context.add(rules=[rule_fields(rule) for rule in ordered])
    if output_format == "md":
        context.print_document(markdown().rstrip("\n"))
        return
    for rule in ordered:
        context.print_result([*rule_lines(rule, context.style), ""])


def rule_fields(rule: Rule) -> dict[str, object]:
    """Return a rule as JSON fields."""
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


def rule_lines(rule: Rule, style: Styler) -> list[str]:
    """Format a rule: what it finds, why, fix, severity by target, and source."""
    from ftpipe.dataset.rules.base import ORIGINS, TARGETS

    text = rule.text
    levels = ", ".join(f"{target} {rule.level_for(target)}" for target in TARGETS)
    rows = [
        ("what", text.what),
        ("why", text.why),
        ("fix", text.fix),
        ("automatic", automatic_fix(rule)),
        ("severity", levels),
        ("basis", f"{ORIGINS[rule.origin]}; {EVIDENCE[rule.evidence]}"),
        ("source", text.source),
    ]
    return [
        style("bold", f"{rule.code} {rule.name}"),
        *format_fields(((f"  {label}", value) for label, value in rows), style=style),
    ]


def automatic_fix(rule: Rule) -> str:
    """What the automatic fix does and the command for it."""
    if rule.fix is None:
        return "none"
    kind, description = rule.fix
    flags = "--fix" if kind == "safe" else "--fix --unsafe-fixes"
    return f"{description} ({kind}): ftpipe prepare {flags}"


def error_classes() -> dict[str, type[FtpipeError]]:
    """Code → class of every error of ftpipe."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FtpipeError)]
    return {kind.code: kind for kind in kinds}


def first_sentence(kind: type[FtpipeError]) -> str:
    """The first paragraph of the docstring of an error class, without reStructuredText markup."""
    text = (kind.__doc__ or "").split("\n\n")[0]
    return " ".join(text.replace("``", "`").split())
