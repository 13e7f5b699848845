"""``ftpipe distill``: make a training set out of a model's recorded answers."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import plural, sanitize_line

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.migration.distill import DistillOptions, DistillResult

FEW_ROWS = 50
"""With fewer rows the result says so. Source: OpenAI fine-tuning guide, which sees improvements from 50 examples on."""


@click.command(
    cls=Command,
    groups={
        "Answers": ("agreement", "grader", "min_score", "near_duplicates"),
        "Held-out prompts": ("holdouts", "include_held_out"),
        "Output": ("output", "provider", "model", "force"),
    },
    example="ftpipe distill recordings/ft-gpt-4o-mini.jsonl --output train.jsonl --agreement 0.6\n"
    "ftpipe distill recordings/*.jsonl --output train.jsonl --grader exact.json --min-score 1 --holdout test.jsonl",
)
@click.argument("recordings", nargs=-1, required=True, type=shared.FILE)
@click.option(
    "-o", "--output", required=True, type=shared.OUTPUT_FILE, metavar="FILE", help="The training set, chat JSONL."
)
@click.option(
    "--agreement",
    type=shared.NumberRange(0, 1, min_open=True),
    metavar="X",
    help="Use an answer only if at least this share of the samples agrees with it, for example 0.6.",
)
@click.option("--grader", type=shared.FILE, metavar="FILE", help="OpenAI grader (JSON) that scores the answers.")
@click.option(
    "--min-score", type=shared.NumberRange(0, 1), metavar="X", help="Lowest score of the grader.  [default: 1]"
)
@click.option(
    "--near-duplicates/--no-near-duplicates",
    default=None,
    help="Leave out prompts that are nearly equal.  [default: if the package rensa is installed]",
)
@click.option(
    "--holdout",
    "holdouts",
    type=shared.FILE,
    multiple=True,
    metavar="FILE",
    help="Test file whose prompts must not become training rows. Repeatable.",
)
@click.option(
    "--include-held-out",
    is_flag=True,
    help="Also learn the answers to held-out prompts, which can then not be used to evaluate the model.",
)
@shared.rules_of
@shared.model
@pass_cli_context
def distill(context: CliContext, /, recordings: tuple[Path, ...], output: Path, **params: Any) -> None:
    """Make a training set out of RECORDINGS, files of `ftpipe models record`.

    A row is a prompt and the model's greedy answer, or with --agreement the answer that most samples give. Answers that
    were cut off, refused or empty are left out, and so are equal and nearly equal prompts, rows that the target would
    refuse, and held-out prompts, so that the tuned model can be evaluated on those. A second file, as in
    train.origins.jsonl, says for each row where it is from.
    """
    from ftpipe.migration.distill import distill as distill_recordings

    files = (*recordings, *params["holdouts"], *([params["grader"]] if params["grader"] else []))
    for path in files:
        require_file(path)
    settings = context.settings({"provider": params["provider"], "model": params["model"]})
    options = distill_options(settings, params)
    if options.has_held_out:
        context.warn_once("held-out prompts become training rows: do not evaluate the tuned model on them")
    result = distill_recordings(recordings, output, options, force=context.force)
    show(context, result)


def distill_options(settings: Settings, params: dict[str, Any]) -> DistillOptions:
    """The options of the work, from those of the command.

    Raises:
        UsageError: ``--min-score`` was given without a grader, or the grader is not a JSON object.
    """
    from ftpipe.cli.check_options import check_settings
    from ftpipe.cli.commands.evaluate import read_object
    from ftpipe.cli.dataset_request import LOCAL_PROVIDER, chosen_provider, provider_for_model
    from ftpipe.migration.distill import DistillOptions
    from ftpipe.providers.profiles import find_profile

    if params["min_score"] is not None and params["grader"] is None:
        raise UsageError("--min-score needs --grader", "add --grader FILE, or leave --min-score out")
    model = settings.config.model or ""
    host = provider_for_model(settings, model) if model else None
    profile = find_profile(chosen_provider(settings) or host or LOCAL_PROVIDER, settings.config.providers)
    return DistillOptions(
        target=profile.target,
        model=model or profile.default_model,
        settings=check_settings(settings.config),
        grader=read_object(params["grader"], "grader"),
        min_score=1.0 if params["min_score"] is None else params["min_score"],
        agreement=params["agreement"],
        holdouts=tuple(params["holdouts"]),
        has_held_out=params["include_held_out"],
        near_duplicates=params["near_duplicates"],
    )


def show(context: CliContext, result: DistillResult) -> None:
    """Write what the training set has, and what was left out and why."""
    context.add(distilled=result)
    origins = ", ".join(f"{number:,} {origin}" for origin, number in result.by_origin.items())
    context.print_result(
        f"{sanitize_line(result.output, 300)}  {plural(result.rows, 'row')} of {plural(result.prompts, 'prompt')}"
        f" ({origins})"
    )
    context.print_status(f"where each row is from: {sanitize_line(result.origins, 300)}")
    if result.dropped:
        context.print_status(f"{plural(sum(result.dropped.values()), 'prompt')} left out:")
        context.print_status(
            [f"  {number:,} × {sanitize_line(reason, 200)}" for reason, number in result.dropped.items()]
        )
    if not result.near_duplicates_checked:
        context.print_status("nearly equal prompts were not looked for; `pip install 'ftpipe[fast]'` adds that")
    if result.rows < FEW_ROWS:
        context.print_status(f"{plural(result.rows, 'row')} may be too few: 50 to 100 good ones are a start")
    context.print_next(f"ftpipe prepare {quote(str(result.output))}")
