"""``ftpipe evaluate``: compare models with a baseline on the same items, with confidence intervals and gates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.commands.jobs_export import export_options, open_exporters, send
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import GateFailedError, UsageError
from ftpipe.paths import EVALUATIONS_FOLDER

if TYPE_CHECKING:
    from ftpipe.cli.evaluation_arms import EvaluationArms
    from ftpipe.exporters import ExportedRun
    from ftpipe.records.evaluation import Evaluation, EvaluationSpec, ItemSet, TrainingOverlap

MIN_GRADED_TOKENS = 512
"""Completion tokens at least, if a grader or a judge scores answers: they can be longer than the expected ones."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``ftpipe evaluate``, with their defaults."""

    models: tuple[str, ...] = ()
    baseline: str | None = None
    data: Path | None = None
    prompt: Path | None = None
    provider: str | None = None
    limit: int | None = None
    cluster: str | None = None
    task: str | None = None
    metrics: tuple[str, ...] = ()
    schema: Path | None = None
    grader: Path | None = None
    judge: str | None = None
    confidence: float = 95.0
    """In percent."""
    gates: tuple[str, ...] = ()
    max_regressions: int | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    seed: int = 0
    samples: int = 1
    concurrency: int | None = None
    rate_limit: float | None = None
    """Requests per minute."""
    no_cache: bool = False
    html: Path | None = None
    markdown: Path | None = None
    junit: Path | None = None
    promptfoo: Path | None = None
    csv: Path | None = None
    exports: tuple[str, ...] = ()
    project: str | None = None

    @property
    def outputs(self) -> dict[str, Path | None]:
        """File for each report format."""
        return {
            "html": self.html,
            "markdown": self.markdown,
            "junit": self.junit,
            "promptfoo": self.promptfoo,
            "csv": self.csv,
        }


def _count(
    name: str, *, default: int | None = None, low: int = 1, high: int | None = None, help: str
) -> shared.Decorator:
    return click.option(
        name,
        type=click.IntRange(low, high),
        default=default,
        show_default=default is not None,
        metavar="N",
        help=help,
    )


item_options = shared.combine_options(
    click.option("--baseline", metavar="MODEL", help="Model to compare with.  [default: base of the first model]"),
    click.option("--data", type=shared.FILE, metavar="FILE", help="Test items: chat JSONL not used for training."),
    click.option("--prompt", type=shared.FILE, metavar="FILE", help="System prompt for a second baseline."),
    click.option("--provider", metavar="NAME", help="Provider of the models.  [default: from the registry]"),
    _count("--limit", help="Use only the first N items."),
    click.option("--cluster", metavar="KEY", help="Key of the records whose value groups items that belong together."),
)
scoring_options = shared.combine_options(
    click.option(
        "--task",
        type=click.Choice(["label", "json", "tools", "text"]),
        help="Kind of answers.  [default: read from the data]",
    ),
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        metavar="NAME",
        help="Metric to compute: exact, normalized, macro_f1, json_match, tool_match, rouge_l, … "
        "Repeatable; the first one decides.",
    ),
    click.option("--schema", type=shared.FILE, metavar="FILE", help="JSON schema that answers must match."),
    click.option("--grader", type=shared.FILE, metavar="FILE", help="OpenAI grader (JSON) as the deciding metric."),
    click.option("--judge", metavar="MODEL", help="Model that compares answers, in both orders."),
    click.option(
        "--confidence",
        type=shared.NumberRange(50, 99.9),
        metavar="X",
        default=EvaluateOptions.confidence,
        show_default=True,
        help="Confidence level in percent.",
    ),
    click.option(
        "--gate",
        "gates",
        multiple=True,
        metavar="EXPR",
        help="Condition to pass, such as 'exact>=+0.03@95%'; the exit code is 1 if it fails. Repeatable.",
    ),
    _count("--max-regressions", low=0, help="Fail if more than N items got worse."),
)
sampling_options = shared.combine_options(
    click.option(
        "--temperature",
        type=shared.NumberRange(0, 2),
        metavar="X",
        default=EvaluateOptions.temperature,
        show_default=True,
        help="Sampling temperature; 0 picks the most likely token.",
    ),
    _count("--max-tokens", help="Maximum completion tokens.  [default: twice the longest expected answer]"),
    click.option(
        "--seed", type=int, metavar="N", default=EvaluateOptions.seed, show_default=True, help="Sampling seed."
    ),
    _count("--samples", default=EvaluateOptions.samples, high=100, help="Completions per item."),
    _count(
        "--concurrency", high=256, help="Maximum concurrent requests.  [default: 32 at the local endpoint, else 16]"
    ),
    click.option("--rate-limit", type=shared.NumberRange(min=0.01), metavar="N", help="Maximum requests per minute."),
    click.option("--no-cache", is_flag=True, help="Send all requests again instead of using cached responses."),
)
output_options = shared.combine_options(
    *(
        click.option(f"--{name}", type=shared.OUTPUT_FILE, metavar="FILE", help=f"Write {title} to this file.")
        for name, title in (
            ("html", "the HTML report"),
            ("markdown", "a pull request comment"),
            ("junit", "JUnit XML"),
            ("promptfoo", "a promptfoo configuration"),
            ("csv", "all answers as CSV"),
        )
    )
)


@click.command(
    cls=Command,
    groups={
        "Models and items": ("baseline", "data", "prompt", "provider", "limit", "cluster"),
        "Scores and verdict": (
            *("task", "metrics", "schema", "grader", "judge", "confidence", "gates", "max_regressions"),
        ),
        "Requests": ("temperature", "max_tokens", "seed", "samples", "concurrency", "rate_limit", "no_cache"),
        "Reports": ("html", "markdown", "junit", "promptfoo", "csv", "force", "exports", "project"),
    },
    example="ftpipe evaluate support-bot@production --data data/support_desk/test.jsonl\n"
    "ftpipe evaluate ft:… --baseline gpt-4.1-mini --prompt better.txt --data test.jsonl --gate 'exact>=+0.03@95%'",
)
@click.argument("models", nargs=-1, required=True)
@item_options
@scoring_options
@sampling_options
@output_options
@export_options
@shared.trust_host
@pass_cli_context
def evaluate(context: CliContext, /, **params: Any) -> None:
    """Compare MODELS with a baseline on items that none of them was trained on.

    All models get the same requests, and scores are compared item by item. The verdict is win, loss or not enough
    evidence. Responses are cached, so an interrupted evaluation continues where it stopped. The exit code is 1 if a
    gate fails.
    """
    from ftpipe.cli.evaluation_arms import resolve_arms

    options = EvaluateOptions(**params)
    if options.data is None:
        raise UsageError(
            "no test items were given",
            f"add --data FILE: chat JSONL that {options.models[0]} was not trained on; "
            "`ftpipe split` makes one before training",
        )
    for path in (options.data, options.prompt, options.schema, options.grader):
        if path is not None:
            require_file(path)
    exporters = open_exporters(options.exports)
    settings = context.settings({"provider": options.provider})
    arms = resolve_arms(context, settings, options.models, baseline=options.baseline, prompt=options.prompt)
    evaluation = run_evaluation(context, settings, arms, options)
    show(context, evaluation)
    send(context, exporters, save(context, settings, evaluation, arms, options), options.project)
    require_gates(evaluation)


def run_evaluation(
    context: CliContext, settings: Settings, arms: EvaluationArms, options: EvaluateOptions
) -> Evaluation:
    """Open the provider and evaluate; responses are cached one by one.

    Raises:
        UsageError: The items, the schema or the grader cannot be used.
        InterruptedRunError: Ctrl-C was pressed.
    """
    from ftpipe.cli.output.progress import item_progress
    from ftpipe.evaluation import evaluate as stage
    from ftpipe.evaluation.request_runner import RateLimiter, RequestRunner
    from ftpipe.evaluation.response_cache import ResponseCache
    from ftpipe.paths import state_dir

    if options.data is None:
        raise UsageError("no test items were given", "add --data FILE")
    data = stage.read_items(options.data, limit=options.limit, cluster_by=options.cluster)
    spec = spec_of(arms, options, options.max_tokens or estimated_max_tokens(context, data, options))
    overlaps = training_overlaps(context, settings, arms, data)
    provider = context.provider(arms.provider, settings)
    runner = RequestRunner(
        stage.ProviderChat(provider.models, provider.profile.waiting_service_tier),
        ResponseCache(None if options.no_cache else state_dir() / EVALUATIONS_FOLDER, endpoint=provider.endpoint),
        concurrency=options.concurrency or provider.profile.chat_concurrency,
        rate_limiter=RateLimiter(options.rate_limit),
    )
    with (
        context.interruptible("interrupted", "run the same command again to continue"),
        item_progress(context, "evaluating", "request") as progress,
    ):
        evaluation = stage.evaluate(data, spec, runner=runner, on_progress=progress)
    return evaluation.model_copy(update={"training_overlaps": overlaps})


def training_overlaps(
    context: CliContext, settings: Settings, arms: EvaluationArms, data: ItemSet
) -> tuple[TrainingOverlap, ...]:
    """The arms that were trained on items, each with a warning before requests are sent, and those not checked."""
    from ftpipe.evaluation.training_overlap import find_training_overlap
    from ftpipe.reports.evaluation.wording import overlap_sentence

    registry = context.registry(settings)
    overlaps = [find_training_overlap(name, model, data, registry) for name, model in arms.known.items()]
    for overlap in overlaps:
        if overlap.items:
            context.warn_once(overlap_sentence(overlap).removeprefix("Warning: "))
    return tuple(overlap for overlap in overlaps if overlap.items != 0)


def estimated_max_tokens(context: CliContext, data: ItemSet, options: EvaluateOptions) -> int:
    """The limit for completions, from the expected answers; graders and judges may want longer ones."""
    from ftpipe.evaluation.items import estimate_max_tokens

    limit = estimate_max_tokens(data.items)
    if options.grader or options.judge:
        limit = max(limit, MIN_GRADED_TOKENS)
    context.print_status(f"answers end after {limit:,} tokens, by the longest expected answer; see --max-tokens")
    return limit


def spec_of(arms: EvaluationArms, options: EvaluateOptions, max_tokens: int) -> EvaluationSpec:
    """Build the specification of the evaluation.

    Raises:
        UsageError: The schema or the grader is not a JSON object.
    """
    from ftpipe.records.evaluation import EvaluationSpec, SamplingParams, Task

    return EvaluationSpec(
        arms=arms.arms,
        sampling=SamplingParams(
            temperature=options.temperature,
            max_tokens=max_tokens,
            seed=options.seed,
            samples=options.samples,
        ),
        task=Task(options.task) if options.task else None,
        metrics=options.metrics,
        answer_schema=read_object(options.schema, "JSON schema"),
        grader=read_object(options.grader, "grader"),
        confidence=options.confidence / 100,
        judge_model=options.judge,
        gates=options.gates,
        max_regressions=options.max_regressions,
    )


def read_object(path: Path | None, noun: str) -> dict[str, Any] | None:
    """Read a JSON object from a file.

    Raises:
        UsageError: The file cannot be read, is not JSON, or not an object.
    """
    import json

    if path is None:
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror or exc}", "check the path") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{path} is not valid JSON: {exc}", f"correct the {noun}") from exc
    if not isinstance(value, dict):
        raise UsageError(f"{path} is not a {noun}: it must be a JSON object", f"correct the {noun}")
    return value


def show(context: CliContext, evaluation: Evaluation) -> None:
    """Write the result to stdout, or into the JSON document."""
    from ftpipe.reports.evaluation.terminal import evaluation_lines
    from ftpipe.reports.evaluation.wording import overlap_sentence

    context.add(
        evaluation=evaluation.model_dump(mode="json", exclude={"outcomes"}),
        items=len(evaluation.outcomes),
        warnings=[overlap_sentence(overlap) for overlap in evaluation.training_overlaps],
        regressions={
            name: [outcome.item.line for outcome in evaluation.changed_items(name)[0]]
            for name in evaluation.challengers
        },
    )
    context.print_result(evaluation_lines(evaluation, context.style))


def save(
    context: CliContext, settings: Settings, evaluation: Evaluation, arms: EvaluationArms, options: EvaluateOptions
) -> list[ExportedRun]:
    """Save the result and its page in the state folder and the registry, and write the requested reports.

    Returns:
        One run for each arm, for other tools.
    """
    from ftpipe.exporters.run import evaluation_runs
    from ftpipe.paths import state_dir
    from ftpipe.reports.evaluation import FORMATS
    from ftpipe.reports.evaluation.html import PageContext, to_html

    registry = context.registry(settings)
    # the curve of a checkpoint ends at its step
    ends = {name: {one.model: one.step for one in model.checkpoints}.get(name) for name, model in arms.known.items()}
    curves = {
        name: [one for one in registry.jobs.metrics(model.job_id) if one.step <= (ends[name] or one.step)]
        for name, model in arms.known.items()
    }
    folder = state_dir() / EVALUATIONS_FOLDER
    files = {"json": folder / f"{evaluation.id}.json", "html": options.html or folder / f"{evaluation.id}.html"}
    texts = {"json": evaluation.model_dump_json(), "html": to_html(evaluation, PageContext(arms.known, curves))}
    for name, render in FORMATS.items():
        path = options.outputs[name]
        if path is not None:
            files[name], texts[name] = path, render(evaluation)
    write_files(files, texts, force=context.force)
    registry.evaluations.save(evaluation)
    context.add(files=files)
    context.print_status(f"report: {files['html']}")
    return evaluation_runs(evaluation, arms.known, curves, files["html"])


def write_files(files: dict[str, Path], texts: dict[str, str], *, force: bool) -> None:
    """Write each text to its file, and create missing folders; those in the state folder are replaced.

    Raises:
        UsageError: Another file exists, and ``force`` is not set.
        LocalStateError: A file cannot be written.
    """
    from ftpipe.output_files import open_output
    from ftpipe.paths import is_in_state_dir

    for name, path in files.items():
        with open_output(path, force=force or is_in_state_dir(path), flag=f"--{name}") as file:
            file.write(texts[name].encode())


def require_gates(evaluation: Evaluation) -> None:
    """Raise if a gate failed.

    Raises:
        GateFailedError: With the first gate that failed.
    """
    failed = [gate for gate in evaluation.gates if not gate.passed]
    if failed:
        raise GateFailedError(f"gate failed: {failed[0].explanation}", "see the report for what got worse")
