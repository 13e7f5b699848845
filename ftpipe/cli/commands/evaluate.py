"""``ftpipe evaluate``: models against a baseline on the same items, with a verdict that knows its own certainty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options
from ftpipe.cli.commands.jobs_export import export_options, open_exporters, send
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.config import Settings

if TYPE_CHECKING:
    from ftpipe.cli.evaluation_arms import EvaluationArms
    from ftpipe.errors import UsageError
    from ftpipe.exporters import ExportedRun
    from ftpipe.records.evaluation import Evaluation, EvaluationSpec

FOLDER = "evaluations"
"""Where answers and results are kept, in the project's state folder."""

item_options = options.combine_options(
    click.option("--against", metavar="BASE", help="The baseline; the first model's own base where not given."),
    click.option(
        "--data", type=options.FILE, metavar="FILE", help="Held-out chat JSONL; with --losses the training rows."
    ),
    click.option("--prompt", type=options.FILE, metavar="FILE", help="A better system prompt: a second baseline."),
    click.option("--provider", metavar="NAME", help="Where the models answer; the registry's knowledge otherwise."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N items."),
    click.option("--cluster", metavar="KEY", help="Key whose value says which items belong together."),
)
scoring_options = options.combine_options(
    click.option("--task", type=click.Choice(["label", "json", "tools", "text"]), help="What the answers are."),
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        metavar="NAME",
        help="exact, normalized, macro_f1, json_match, tool_match, rouge_l, … instead; the first decides.",
    ),
    click.option("--schema", type=options.FILE, metavar="FILE", help="JSON schema that answers must satisfy."),
    click.option("--grader", type=options.FILE, metavar="FILE", help="A grader in OpenAI's JSON; it decides."),
    click.option("--judge", metavar="MODEL", help="Model that compares answers, in both orders."),
    click.option("--confidence", type=click.FloatRange(50, 99.9), default=95.0, show_default=True, help="In percent."),
    click.option("--gate", "gates", multiple=True, metavar="EXPR", help="Such as 'exact>=+0.03@95%'; exit 1 if lost."),
    click.option("--max-regressions", type=click.IntRange(min=0), metavar="N", help="Items that may get worse."),
)
sampling_options = options.combine_options(
    click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0 is likeliest."),
    click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling."),
    click.option("--samples", type=click.IntRange(1, 100), default=1, show_default=True, help="Answers an item."),
    click.option("--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="Requests at once."),
    click.option("--per-minute", type=click.FloatRange(min=0.01), metavar="N", help="Requests a minute at most."),
    click.option("--fresh", is_flag=True, help="Ask again what was answered before."),
)
losses = options.combine_options(
    click.option("--losses", is_flag=True, help="Rank training rows by loss before and after: finds wrong labels."),
    click.option("--by", type=click.Choice(["tuned", "base", "delta"]), default="tuned", show_default=True,
                 help="Which loss ranks the rows."),
    click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Rows that are listed."),
)  # fmt: skip
outputs = options.combine_options(
    *(
        click.option(f"--{name}", type=options.FILE, metavar="FILE", help=f"Write {title} here.")
        for name, title in (
            ("html", "the report page"),
            ("markdown", "a comment for a pull request"),
            ("junit", "JUnit XML"),
            ("promptfoo", "a Promptfoo configuration"),
            ("csv", "every answer as a sheet"),
        )
    )
)


@click.command(
    cls=Command,
    example="ftpipe evaluate support-bot@production --data data/support_desk/test.jsonl\n"
    "ftpipe evaluate ft:… --against gpt-4.1-mini --prompt better.txt --data test.jsonl --gate 'exact>=+0.03@95%'\n"
    "ftpipe evaluate ft:… --losses",
)
@click.argument("models", nargs=-1, required=True)
@item_options
@scoring_options
@sampling_options
@losses
@outputs
@export_options
@pass_cli_context
def evaluate(context: CliContext, /, models: tuple[str, ...], **flags: Any) -> None:
    """Compare MODELS with a baseline on items that neither has seen.

    Each is asked the same, scores are compared item by item, and the verdict is win, loss, or not enough evidence.
    Answers are kept: a stopped evaluation goes on where it was. With a gate the exit code is 1 where it is lost.
    """
    from ftpipe.cli.evaluation_arms import resolve_arms

    if flags["losses"] or explicit_options() & {"by", "top"}:
        rank_losses(context, models, flags)
        return
    if flags["data"] is None:
        raise no_data(models)
    for name in ("data", "prompt", "schema", "grader"):
        if flags[name] is not None:
            require_file(flags[name])
    exporters = open_exporters(flags["exports"])
    settings = context.settings({"provider": flags["provider"]})
    found = resolve_arms(context, settings, models, against=flags["against"], prompt=flags["prompt"])
    evaluation = run_evaluation(context, settings, found, flags)
    show(context, evaluation)
    send(context, exporters, write(context, settings, evaluation, found, flags), flags["project"])
    fail_on_lost_gate(evaluation)


def explicit_options() -> frozenset[str]:
    """The command's own options that were given on the command line, as they are written, without dashes."""
    from click.core import ParameterSource

    ctx = click.get_current_context()
    given = {
        max(option.opts, key=len).lstrip("-")
        for option in ctx.command.params
        if option.name in ctx.params and isinstance(option, click.Option)
        if ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    }
    return frozenset(given)


def rank_losses(context: CliContext, models: tuple[str, ...], flags: dict[str, Any]) -> None:
    """The other question: which rows of the training data are hard.

    Raises:
        UsageError: The question was not asked, only its flags were given.
    """
    from ftpipe.cli.commands.losses import rank_rows
    from ftpipe.errors import UsageError

    if not flags["losses"]:
        raise UsageError("--by and --top are about --losses", "add --losses")
    rank_rows(context, models, flags, explicit_options())


def no_data(models: tuple[str, ...]) -> UsageError:
    """The error of an evaluation without items."""
    from ftpipe.errors import UsageError

    return UsageError(
        "no items were named",
        f"--data FILE: chat JSONL that {models[0]} was not trained on; `ftpipe split` sets some aside before training",
    )


def default_options(data: Path) -> dict[str, Any]:
    """The flags of an evaluation at which nothing was said but the file."""
    return evaluate.make_context("evaluate", ["MODEL", "--data", str(data)]).params


def run_evaluation(context: CliContext, settings: Settings, found: EvaluationArms, flags: dict[str, Any]) -> Evaluation:
    """Open the endpoint and evaluate; answers are kept one by one."""
    from ftpipe.cli.evaluation_arms import answers_progress
    from ftpipe.evaluation import evaluate as stage
    from ftpipe.evaluation.request_runner import RateLimiter, RequestRunner
    from ftpipe.evaluation.response_cache import ResponseCache
    from ftpipe.paths import state_dir

    data = stage.read_items(flags["data"], limit=flags["limit"], cluster_by=flags["cluster"])
    spec = spec_of(found, flags)
    provider = context.provider(found.provider, settings)
    folder = None if flags["fresh"] else state_dir() / FOLDER
    memory = ResponseCache(folder, endpoint=provider.endpoint)
    asker = RequestRunner(
        stage.ProviderChat(provider.models),
        memory,
        concurrency=flags["concurrency"],
        rate_limiter=RateLimiter(flags["per_minute"]),
    )
    context.interrupt_message, context.resume_hint = "interrupted", "run the same command again to go on"
    with answers_progress(context) as progress:
        return stage.evaluate(data, spec, runner=asker, on_progress=progress)


def spec_of(found: EvaluationArms, flags: dict[str, Any]) -> EvaluationSpec:
    """What is asked, from the flags.

    Raises:
        UsageError: The schema or the grader is no JSON object.
    """
    from ftpipe.records.evaluation import EvaluationSpec, SamplingParams, Task

    return EvaluationSpec(
        arms=found.arms,
        sampling=SamplingParams(
            temperature=flags["temperature"],
            max_tokens=flags["max_tokens"],
            seed=flags["seed"],
            samples=flags["samples"],
        ),
        task=Task(flags["task"]) if flags["task"] else None,
        metrics=flags["metrics"],
        answer_schema=read_object(flags["schema"], "JSON schema"),
        grader=read_object(flags["grader"], "grader"),
        confidence=flags["confidence"] / 100,
        judge_model=flags["judge"],
        gates=flags["gates"],
        max_regressions=flags["max_regressions"],
    )


def read_object(path: Path | None, what: str) -> dict[str, Any] | None:
    """A JSON object from a file.

    Raises:
        UsageError: The file is no JSON object.
    """
    import json

    from ftpipe.errors import UsageError

    if path is None:
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{path} is no JSON: {exc}", f"correct the {what}") from exc
    if not isinstance(value, dict):
        raise UsageError(f"{path} is no {what}: it is not an object", f"correct the {what}")
    return value


def show(context: CliContext, evaluation: Evaluation) -> None:
    """Put the result on stdout, or into the document."""
    from ftpipe.reports.evaluation.terminal import evaluation_lines

    context.add(
        evaluation=evaluation.model_dump(mode="json", exclude={"outcomes"}),
        items=len(evaluation.outcomes),
        regressions={
            name: [outcome.item.line for outcome in evaluation.changed_items(name)[0]]
            for name in evaluation.challengers
        },
    )
    context.print_result(evaluation_lines(evaluation, context.style))


def write(
    context: CliContext, settings: Settings, evaluation: Evaluation, found: EvaluationArms, flags: dict[str, Any]
) -> list[ExportedRun]:
    """Keep the result in the project's state, with its page, and write what else was asked for.

    Returns:
        What can be sent to other tools: one run for each arm.
    """
    from ftpipe.exporters.run import evaluation_runs
    from ftpipe.paths import state_dir
    from ftpipe.reports.evaluation import FORMATS
    from ftpipe.reports.evaluation.html import PageContext, to_html

    registry = context.registry(settings)
    # a checkpoint's curve ends where the checkpoint was made
    ends = {name: {one.model: one.step for one in model.checkpoints}.get(name) for name, model in found.known.items()}
    curves = {
        name: [one for one in registry.jobs.metrics(model.job_id) if one.step <= (ends[name] or one.step)]
        for name, model in found.known.items()
    }
    folder = state_dir() / FOLDER
    files = {"json": folder / f"{evaluation.id}.json", "html": flags["html"] or folder / f"{evaluation.id}.html"}
    texts = {"json": evaluation.model_dump_json(), "html": to_html(evaluation, PageContext(found.known, curves))}
    for name, form in FORMATS.items():
        if flags[name] is not None:
            files[name], texts[name] = flags[name], form(evaluation)
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[name], encoding="utf-8", newline="")
    registry.evaluations.save(evaluation)
    context.add(files=files)
    context.print_status(f"report: {files['html']}")
    return evaluation_runs(evaluation, found.known, curves, files["html"])


def fail_on_lost_gate(evaluation: Evaluation) -> None:
    """End with exit code 1 where a gate is lost.

    Raises:
        GateFailedError: One of the gates is lost.
    """
    from ftpipe.errors import GateFailedError

    lost = [gate for gate in evaluation.gates if not gate.passed]
    if lost:
        raise GateFailedError(
            f"the gate is lost: {lost[0].explanation}", "the report lists what got worse and what it takes"
        )
