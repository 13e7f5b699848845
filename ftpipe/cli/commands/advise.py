"""``ftpipe advise``: recommend retrieval, prompting or fine-tuning, from options, a file or an interview."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import UsageError

if TYPE_CHECKING:
    from ftpipe.advisor.inputs import AdviceInputs
    from ftpipe.catalog.training_prices import PriceRow
    from ftpipe.records.evaluation import TokenPrice

YES_NO = {
    "has_evaluation": ("evaluation", "There is a test set with a measured baseline."),
    "lacks_knowledge": ("lacks-knowledge", "Errors are missing facts, documents or current information."),
    "wrong_behavior": ("wrong-behavior", "Errors are wrong format, labels, tone or steps."),
    "better_prompt_is_enough": ("better-prompt-is-enough", "A better prompt or examples in it fix the errors."),
    "smaller_model_is_enough": ("smaller-model", "A smaller model is enough for this one task."),
    "needs_privacy": ("privacy", "The data must stay on your own machines."),
    "needs_speed": ("speed", "Answers must be faster than the large model gives them."),
    "prompt_caching": ("caching", "Calls are frequent enough for the provider to cache the prompt."),
}
"""Field → flag (also as ``--no-…``) and help."""
AMOUNTS: dict[str, tuple[str, type, str]] = {
    "clean_examples": ("examples", int, "Number of clean, labelled examples."),
    "prompt_tokens": ("prompt-tokens", int, "Prompt tokens that are the same in every call."),
    "tuned_prompt_tokens": ("tuned-prompt-tokens", int, "Prompt tokens that remain after tuning."),
    "variable_tokens": ("variable-tokens", int, "Tokens per call that differ each time."),
    "output_tokens": ("output-tokens", int, "Tokens per answer."),
    "calls_per_day": ("calls-per-day", float, "Calls per day."),
    "epochs": ("epochs", int, "Passes over the training data."),
    "data_cost": ("data-cost", float, "Cost of the training data."),
    "labor_hours": ("labor-hours", float, "Hours of work on data, evaluation and maintenance."),
    "hourly_rate": ("hourly-rate", float, "Cost of an hour of work."),
    "hosting_per_day": ("hosting-per-day", float, "Cost per day of hosting a local model."),
}
"""Field → flag, type and help."""
QUESTIONS = (*list(YES_NO)[:4], "clean_examples", *list(YES_NO)[4:], "prompt_tokens", "calls_per_day")
"""Fields that the interview asks for, in this order, until the recommendation is clear."""
EPOCHS = click.IntRange(1, 50)
ANSWER_OPTIONS = {name: f"--{flag} or --no-{flag}" for name, (flag, _) in YES_NO.items()} | {
    name: f"--{flag} N" for name, (flag, *_) in AMOUNTS.items()
}
"""Field → option that answers its question."""
TEXT_OPTIONS = ("base", "tuned", "provider", "base_price", "tuned_price", "ends")
NUMBER_OPTIONS = ("tokens_per_example", "train_price")


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """Options of ``ftpipe advise``, with the answers of a file and of the interview."""

    data: Path | None = None
    base: str | None = None
    tuned: str | None = None
    provider: str = "openai"
    tokens_per_example: int | None = None
    base_price: str | None = None
    tuned_price: str | None = None
    train_price: float | None = None
    ends: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The keys of ``YES_NO`` and ``AMOUNTS`` that are known."""

    @classmethod
    def from_values(cls, data: Path | None, values: Mapping[str, Any]) -> AdviseOptions:
        """Build the options from values, of which ``None`` is not given."""
        known = {name: value for name, value in values.items() if value is not None}
        own = {name: known.pop(name) for name in (*TEXT_OPTIONS, *NUMBER_OPTIONS) if name in known}
        return cls(data=data, facts=known, **own)


def _fact_options() -> shared.Decorator:
    yes_no = [
        click.option(f"--{flag}/--no-{flag}", name, default=None, help=text) for name, (flag, text) in YES_NO.items()
    ]
    amounts = [
        click.option(
            f"--{flag}",
            name,
            type=EPOCHS if name == "epochs" else shared.NumberRange(min=0) if kind is float else click.IntRange(min=0),
            metavar="N",
            help=text,
        )
        for name, (flag, kind, text) in AMOUNTS.items()
    ]
    return shared.combine_options(*yes_no, *amounts)


@click.command(
    cls=Command,
    example="ftpipe advise\n"
    "ftpipe advise --base gpt-4.1 --tuned gpt-4.1-mini --examples 1000 --tokens-per-example 500 --prompt-tokens 2000",
)
@shared.data
@click.option("--file", "path", type=shared.FILE, metavar="FILE", help="TOML file with values for these options.")
@click.option("--base", metavar="MODEL", help="Model that answers now.")
@click.option("--tuned", metavar="MODEL", help="Model that would be tuned.  [default: the base model]")
@click.option("--provider", metavar="NAME", help="Provider that would tune it.  [default: openai]")
@click.option(
    "--tokens-per-example", type=click.IntRange(min=1), metavar="N", help="Tokens per example, used with --examples."
)
@click.option("--base-price", metavar="IN,CACHED,OUT", help="Price per million tokens.  [default: the known price]")
@click.option("--tuned-price", metavar="IN,CACHED,OUT", help="The same for the tuned model.")
@click.option(
    "--train-price", type=shared.NumberRange(min=0), metavar="X", help="Price per million trained tokens and epoch."
)
@click.option("--ends", metavar="DATE", help="Day on which the tuned model is shut down; none for never.")
@_fact_options()
@pass_cli_context
def advise(context: CliContext, /, data: Path | None, path: Path | None, **params: Any) -> None:
    """Recommend retrieval, prompting or fine-tuning, with reasons, costs, and what would change the advice.

    Nothing is recommended before it is known why the model fails, or what speaks for tuning.

    The number of examples and tokens is read from DATA. On a terminal and without options, you are asked questions.
    """
    from ftpipe.advisor.advise import advise as advice_for
    from ftpipe.reports.advice import advice_lines

    settings = context.settings()
    values = read_answers(path) | {name: value for name, value in params.items() if value is not None}
    options = AdviseOptions.from_values(data, values)
    today = datetime.now(UTC).date()
    if not path and not options.facts and sys.stdin.isatty() and not context.json:
        options = interview(options)
    inputs = collect_inputs(settings, options, read_data(options), today=today)
    advice = advice_for(inputs)
    context.add(advice=advice, inputs=inputs.model_dump(mode="json", exclude_none=True))
    context.print_result(advice_lines(advice, context.style, options=ANSWER_OPTIONS))


def read_answers(path: Path | None) -> dict[str, Any]:
    """Read values from a TOML file; its keys are the names of the options, with ``-`` or ``_``.

    Raises:
        UsageError: The file is not TOML, or has an unknown key.
    """
    import tomllib

    from ftpipe.suggestions import nearest_name

    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: {exc}", "write it as TOML, for example: examples = 800") from exc
    names = {flag: name for name, (flag, *_) in (YES_NO | AMOUNTS).items()}
    names |= {name.replace("_", "-"): name for name in (*TEXT_OPTIONS, *NUMBER_OPTIONS)}
    answers: dict[str, Any] = {}
    for key, value in table.items():
        flag = key.replace("_", "-")
        if flag not in names:
            nearest = nearest_name(flag, names, min_similarity=0.5)
            raise UsageError(
                f"{path}: unknown key {key!r}", f"did you mean {nearest}?" if nearest else "see `ftpipe advise --help`"
            )
        answers[names[flag]] = str(value) if names[flag] in TEXT_OPTIONS else value
    return answers


def interview(options: AdviseOptions) -> AdviseOptions:
    """Ask for missing values in the order of the decision, until it is clear; Enter means not known."""
    from ftpipe.advisor.decision_rules import RULES, is_decided
    from ftpipe.advisor.inputs import AdviceInputs, question_of

    facts = dict(options.facts)
    for name in QUESTIONS:
        if name not in facts:
            value = _parse_answer(name, _ask(question_of(name), "y/n" if name in YES_NO else "number"))
            if value is not None:
                facts[name] = value
            if is_decided(AdviceInputs.model_validate(facts), last_field=name, rules=RULES):
                return replace(options, facts=facts)
    base = options.base or _ask("Which model answers now?", "name") or None
    tuned = options.tuned or _ask("Which model would be tuned?", "name") or None
    options = replace(options, facts=facts, base=base, tuned=tuned)
    if facts.get("clean_examples") and options.tokens_per_example is None:
        number = _parse_answer("tokens_per_example", _ask("About how many tokens does an example have?", "number"))
        options = replace(options, tokens_per_example=int(number) if number else None)
    return options


def _ask(question: str, kind: str) -> str:
    answer: str = click.prompt(f"{question} [{kind}, Enter = not known]", default="", show_default=False, err=True)
    return answer.strip().lower()


def _parse_answer(name: str, text: str) -> bool | int | float | None:
    if name in YES_NO:
        return True if text.startswith("y") else False if text.startswith("n") else None
    digits = text.replace(",", "").replace("_", "")
    return (int(digits) if name != "calls_per_day" else float(digits)) if digits.isdecimal() else None


def read_data(options: AdviseOptions) -> dict[str, Any]:
    """Return the number of examples, tokens and epochs of the dataset, or tokens from the two numbers given."""
    if options.data is None:
        count, each = options.facts.get("clean_examples"), options.tokens_per_example
        return {"training_tokens": count * each} if count is not None and each is not None else {}
    from ftpipe.cli.dataset_request import require_dataset
    from ftpipe.stages.count import count as count_tokens
    from ftpipe.stages.validate import validate

    require_dataset(options.data)
    model = options.tuned or options.base or "gpt-4.1-mini"
    report = count_tokens(validate(options.data, model=model), model=model)
    values: dict[str, Any] = {"clean_examples": max(0, report.dataset.examples - report.summary.errors)}
    if report.tokens is not None:
        values["training_tokens"] = report.tokens.total
    if report.cost is not None:
        values |= {
            "epochs": report.cost.epochs,
            "epochs_low": report.cost.epochs_low,
            "epochs_high": report.cost.epochs_high,
        }
    return values


def collect_inputs(settings: Settings, options: AdviseOptions, data: dict[str, Any], *, today: date) -> AdviceInputs:
    """Combine everything that is known, with the price rows.

    Raises:
        UsageError: A value is out of range, or a date or price cannot be read.
    """
    from pydantic import ValidationError

    from ftpipe.advisor.inputs import AdviceInputs
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(options.provider, settings.config.providers)
    last_day = profile.last_day_to_create
    base, tuned = price_rows(settings, options, profile.target, today)
    try:
        return AdviceInputs.model_validate(
            {
                "hosted_training_available": None if last_day is None else today <= date.fromisoformat(last_day),
                **data,
                **options.facts,
                "base": base,
                "tuned": tuned,
                "today": today,
                "shutdown_date": _parse_date(profile.models_shutdown_date if options.ends is None else options.ends),
            }
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "see `ftpipe advise --help`") from exc


def _parse_date(text: str | None) -> date | None:
    if text is None or text == "none":
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a date", "write it as YYYY-MM-DD, or none") from exc


def price_rows(
    settings: Settings, options: AdviseOptions, target: str, today: date
) -> tuple[TokenPrice | None, TokenPrice | None]:
    """Return the price rows of the base and of the tuned model; ``None`` if unknown."""
    from ftpipe.catalog.inference_prices import answer_price, read_price
    from ftpipe.catalog.training_prices import PriceTable

    base_name = options.base or options.tuned
    tuned_name = options.tuned or base_name
    base = tuned = None
    if options.base_price:
        base = read_price(options.base_price, base_name or "base", today=today.isoformat())
    elif base_name:
        base = answer_price(target, base_name, "base")
    if options.tuned_price:
        tuned = read_price(options.tuned_price, f"ft:{tuned_name or 'tuned'}", today=today.isoformat())
    elif tuned_name:
        tuned = answer_price(target, tuned_name, "tuned")
    training = PriceTable.load(settings.config.prices, target=target).row(tuned_name) if tuned_name else None
    price = options.train_price if options.train_price is not None else training.training if training else None
    if tuned is not None and price is not None:
        is_own = training is None or options.train_price is not None
        source = tuned.source if is_own or training is None else _combined_source(tuned.source, training)
        tuned = tuned.model_copy(update={"training": price, "source": source})
    return base, tuned


def _combined_source(source: str, training: PriceRow) -> str:
    """Name the sources of both prices if they differ."""
    own = f"training: {training.source}, {training.as_of}" if training.as_of else f"training: {training.source}"
    return source if training.source == source else f"{source}; {own}"
