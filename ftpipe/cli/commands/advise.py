"""``ftpipe advise``: which road to take, asked as a conversation, by flags, or from a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.config import Settings

if TYPE_CHECKING:
    from ftpipe.advisor.inputs import AdviceInputs
    from ftpipe.catalog.training_prices import PriceRow
    from ftpipe.records.evaluation import TokenPrice

YES_NO = {
    "has_evaluation": "evaluation",
    "lacks_knowledge": "lacks-knowledge",
    "wrong_behavior": "wrong-behaviour",
    "better_prompt_is_enough": "prompt-is-enough",
    "smaller_model_is_enough": "smaller-model",
    "needs_privacy": "privacy",
    "needs_speed": "speed",
    "prompt_caching": "caching",
}
"""Field → flag; each also as ``--no-…``."""
AMOUNTS = {
    "clean_examples": ("examples", int),
    "prompt_tokens": ("prompt-tokens", int),
    "tuned_prompt_tokens": ("tuned-prompt-tokens", int),
    "variable_tokens": ("user-tokens", int),
    "output_tokens": ("output-tokens", int),
    "calls_per_day": ("calls-per-day", float),
    "epochs": ("epochs", int),
    "data_cost": ("data-cost", float),
    "labor_hours": ("people-hours", float),
    "hourly_rate": ("people-rate", float),
    "hosting_per_day": ("machine-per-day", float),
}
"""Field → flag and type."""
ASKED = (*list(YES_NO)[:4], "clean_examples", *list(YES_NO)[4:], "prompt_tokens", "calls_per_day")
"""What a conversation asks, in this order; it stops where the answer is clear."""

NAMES = {"base": "Which model answers now?", "tuned": "Which one would be tuned?"}
"""What a conversation asks last, so that the numbers can be reckoned."""


def _yes_no(field: str, flag: str) -> Callable[..., Any]:
    about = field.replace("_", " ")
    return click.option(f"--{flag}/--no-{flag}", field, default=None, help=f"{about[0].upper()}{about[1:]}, or not.")


def _amount(field: str, flag: str, kind: type) -> Callable[..., Any]:
    number = click.FloatRange(min=0) if kind is float else click.IntRange(min=0)
    return click.option(f"--{flag}", field, type=number, metavar="N", help=f"{field.replace('_', ' ').capitalize()}.")


facts = options.combine_options(
    *(_yes_no(field, flag) for field, flag in YES_NO.items()),
    *(_amount(field, flag, kind) for field, (flag, kind) in AMOUNTS.items()),
)


@click.command(
    cls=Command,
    example="ftpipe advise\n"
    "ftpipe advise --base gpt-4.1 --tuned gpt-4.1-mini --examples 1000 --tokens-per-example 500 --prompt-tokens 2000",
)
@options.data
@click.option("--file", "path", type=options.FILE, metavar="FILE", help="Answers as TOML instead of flags.")
@click.option("--base", metavar="MODEL", help="Model that answers now.")
@click.option("--tuned", metavar="MODEL", help="Model that would be tuned; the base where not given.")
@click.option("--provider", metavar="NAME", help="Where it would be tuned; openai where not given.")
@click.option("--tokens-per-example", type=click.IntRange(min=1), metavar="N", help="With --examples: the file's size.")
@click.option("--base-price", metavar="IN,CACHED,OUT", help="Per million tokens, instead of the known row.")
@click.option("--tuned-price", metavar="IN,CACHED,OUT", help="The same for the tuned model.")
@click.option("--train-price", type=click.FloatRange(min=0), metavar="X", help="Per million trained tokens and epoch.")
@click.option("--ends", metavar="DATE", help="Day on which the tuned model would stop answering; none for never.")
@facts
@pass_cli_context
def advise(context: CliContext, /, data: Path | None, path: Path | None, **flags: Any) -> None:
    """Say whether to retrieve, prompt or fine-tune, why, what it costs, and what would change the answer.

    DATA is read for its number of examples and tokens. On a terminal, what no flag says is asked.
    """
    from ftpipe.advisor.advise import advise as advice_for
    from ftpipe.reports.advice import advice_lines

    settings = context.settings()
    known = {name: value for name, value in flags.items() if value is not None}
    known = read_answers(path) | known
    today = datetime.now(UTC).date()
    if not path and not (set(known) & {*YES_NO, *AMOUNTS}) and sys.stdin.isatty() and not context.json:
        known |= interview(known)
    case = situation(settings, known, read_data(data, known), today=today)
    advice = advice_for(case)
    context.add(advice=advice, situation=case.model_dump(mode="json", exclude_none=True))
    context.print_result(advice_lines(advice, context.style))


def read_answers(path: Path | None) -> dict[str, Any]:
    """Answers from a TOML file; its keys are the flags' names, with either sign between the words.

    Raises:
        UsageError: The file is no TOML, or has a key that is not one.
    """
    import tomllib

    from ftpipe.errors import UsageError
    from ftpipe.suggestions import nearest_name

    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: {exc}", "write it as TOML, for example: examples = 800") from exc
    fields = {flag: field for field, flag in YES_NO.items()} | {flag: field for field, (flag, _) in AMOUNTS.items()}
    others = ("base", "tuned", "provider", "tokens-per-example", "base-price", "tuned-price", "train-price", "ends")
    fields |= {name: name.replace("-", "_") for name in others}
    answers: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in fields:
            nearest = nearest_name(name, fields, min_similarity=0.5)
            raise UsageError(
                f"{path}: there is no {key!r}", f"did you mean {nearest}?" if nearest else "see ftpipe advise -h"
            )
        is_text = name in others and name not in ("tokens-per-example", "train-price")
        answers[fields[name]] = str(value) if is_text else value
    return answers


def interview(known: dict[str, Any]) -> dict[str, Any]:
    """Ask what is not known, in the order of the decision, until it is clear; Enter is "not known"."""
    from ftpipe.advisor.decision_rules import RULES, is_decided
    from ftpipe.advisor.inputs import AdviceInputs

    answers: dict[str, Any] = {}
    for field in ASKED:
        if field in known:
            continue
        kind = "y/n" if field in YES_NO else "number"
        value = _parse_answer(field, _ask(str(AdviceInputs.model_fields[field].description), kind))
        if value is not None:
            answers[field] = value
        if is_decided(AdviceInputs.model_validate({**_plain(known), **answers}), last_field=field, rules=RULES):
            return answers
    for field, question in NAMES.items():
        text = "" if field in known else _ask(question, "name")
        answers |= {field: text} if text else {}
    if answers.get("clean_examples") and "tokens_per_example" not in known:
        each = _parse_answer("tokens_per_example", _ask("How many tokens has one example, about?", "number"))
        answers |= {"tokens_per_example": each} if each else {}
    return answers


def _ask(question: str, kind: str) -> str:
    answer: str = click.prompt(f"{question} [{kind}, Enter = not known]", default="", show_default=False, err=True)
    return answer.strip().lower()


def _plain(known: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in known.items() if name in YES_NO or name in AMOUNTS}


def _parse_answer(field: str, text: str) -> bool | int | float | None:
    if field in YES_NO:
        return True if text.startswith("y") else False if text.startswith("n") else None
    digits = text.replace(",", "").replace("_", "")
    return (int(digits) if field != "calls_per_day" else float(digits)) if digits.isdecimal() else None


def read_data(data: Path | None, known: dict[str, Any]) -> dict[str, Any]:
    """Examples, tokens and epochs, from a dataset, or from the two numbers that were given."""
    if data is None:
        count, each = known.get("clean_examples"), known.get("tokens_per_example")
        return {"training_tokens": count * each} if count is not None and each is not None else {}
    from ftpipe.cli.dataset_request import require_file
    from ftpipe.stages.count import count as count_tokens
    from ftpipe.stages.validate import validate

    require_file(data)
    model = known.get("tuned") or known.get("base") or "gpt-4.1-mini"
    report = count_tokens(validate(data, model=model), model=model)
    found: dict[str, Any] = {"clean_examples": max(0, report.dataset.examples - report.summary.errors)}
    if report.tokens is not None:
        found["training_tokens"] = report.tokens.total
    if report.cost is not None:
        found |= {
            "epochs": report.cost.epochs,
            "epochs_low": report.cost.epochs_low,
            "epochs_high": report.cost.epochs_high,
        }
    return found


def situation(settings: Settings, known: dict[str, Any], data: dict[str, Any], *, today: date) -> AdviceInputs:
    """Everything that is known, with the price rows joined.

    Raises:
        UsageError: A value is out of its range, or a date or price cannot be read.
    """
    from pydantic import ValidationError

    from ftpipe.advisor.inputs import AdviceInputs
    from ftpipe.errors import UsageError
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(known.get("provider", "openai"), settings.config.providers)
    last = profile.last_day_to_create
    base, tuned = rows(settings, known, profile.target, today)
    try:
        return AdviceInputs.model_validate(
            {
                "hosted_training_available": None if last is None else today <= date.fromisoformat(last),
                **data,
                **{name: value for name, value in known.items() if name in YES_NO or name in AMOUNTS},
                "base": base,
                "tuned": tuned,
                "today": today,
                "shutdown_date": _end(known.get("ends", profile.models_shutdown_date)),
            }
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "`ftpipe advise --help` shows how"
        ) from exc


def _end(text: str | None) -> date | None:
    from ftpipe.errors import UsageError

    if text is None or text == "none":
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no date", "give it as 2027-01-14, or none") from exc


def rows(
    settings: Settings, known: dict[str, Any], target: str, today: date
) -> tuple[TokenPrice | None, TokenPrice | None]:
    """The price rows of the base and of the tuned model; ``None`` each where none is known."""
    from ftpipe.catalog.inference_prices import answer_price, read_price
    from ftpipe.catalog.training_prices import PriceTable

    base_name = known.get("base") or known.get("tuned")
    tuned_name = known.get("tuned") or base_name
    base = tuned = None
    if known.get("base_price"):
        base = read_price(known["base_price"], base_name or "base", today=today.isoformat())
    elif base_name:
        base = answer_price(target, base_name, "base")
    if known.get("tuned_price"):
        tuned = read_price(known["tuned_price"], f"ft:{tuned_name or 'tuned'}", today=today.isoformat())
    elif tuned_name:
        tuned = answer_price(target, tuned_name, "tuned")
    training = PriceTable.load(settings.config.prices, target=target).row(tuned_name) if tuned_name else None
    price = known.get("train_price", training.training if training else None)
    if tuned is not None and price is not None:
        source = tuned.source if training is None or "train_price" in known else _joined(tuned.source, training)
        tuned = tuned.model_copy(update={"training": price, "source": source})
    return base, tuned


def _joined(source: str, training: PriceRow) -> str:
    """Where the answers' prices and the training's were read, both, where they differ."""
    own = f"training: {training.source}, {training.as_of}" if training.as_of else f"training: {training.source}"
    return source if training.source == source else f"{source}; {own}"
