"""``ftpipe models record``: record how a model answers, before it is shut down."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.errors import CostLimitError, UsageError
from ftpipe.formatting import format_fields, format_money, plural, sanitize_line

if TYPE_CHECKING:
    from ftpipe.migration.prompts import PromptList
    from ftpipe.migration.record import RecordingPlan, RecordingResult
    from ftpipe.migration.recording import RecordingHeader, RecordingSampling
    from ftpipe.migration.spending import RecordingCost
    from ftpipe.records import Model

DEFAULT_MAX_TOKENS = 1024
"""Longest answer if no expected answer is longer."""
AUTO = "auto"
"""For ``--training``: the file that the registry knows."""


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Options of ``ftpipe models record``."""

    model: str
    prompts: tuple[Path, ...] = ()
    log: tuple[Path, ...] = ()
    any_model: bool = False
    training: str | None = None
    output: Path | None = None
    provider: str | None = None
    limit: int | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    batch: bool | None = None
    concurrency: int = 4
    rate_limit: float | None = None
    """Requests per minute."""
    timeout: float | None = None
    max_cost: str | None = None
    yes: bool = False
    dry_run: bool = False


@click.command(
    "record",
    cls=Command,
    groups={
        "Prompts": ("prompts", "log", "any_model", "training", "limit"),
        "Answers": ("samples", "temperature", "max_tokens", "seed", "logprobs", "top_logprobs"),
        "Requests and cost": (
            *("batch", "concurrency", "rate_limit", "timeout", "max_cost", "yes", "dry_run", "provider"),
        ),
    },
    example="ftpipe models record support-bot@production --prompts data/support_desk/test.jsonl --samples 4\n"
    "ftpipe models record ft:gpt-4o-mini-2024-07-18:acme::AbC123 --provider openai --log requests.jsonl --max-cost 5",
)
@click.argument("model")
@click.option(
    "--prompts",
    type=shared.FILE,
    multiple=True,
    metavar="FILE",
    help="Held-out prompts, not used for training: chat JSONL, whose last answers are expected and not sent. "
    "Repeatable.",
)
@click.option(
    "--log",
    type=shared.FILE,
    multiple=True,
    metavar="FILE",
    help="Requests that were sent to the model, one per row: stored completions, or the log of a proxy. Repeatable.",
)
@click.option("--any-model", is_flag=True, help="Also use requests of the log that were sent to other models.")
@click.option(
    "--training",
    metavar="FILE",
    help="Prompts of the training file, marked as seen; auto takes the file that the registry knows.",
)
@click.option(
    "-o",
    "--output",
    type=shared.CONTINUED_FILE,
    metavar="FILE",
    help="File of the recording; one that exists is continued.  [default: recordings/MODEL.jsonl]",
)
@click.option("--provider", metavar="NAME", help="Provider of the model.  [default: from the registry]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Record only the first N prompts.")
@click.option(
    "--samples", type=click.IntRange(0, 100), metavar="N", help="Answers beside the greedy one.  [default: 0]"
)
@click.option(
    "--temperature", type=shared.NumberRange(0, 2), metavar="X", help="Temperature of these answers.  [default: 1]"
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum tokens of an answer.  [default: 1024, or twice the longest expected answer]",
)
@click.option("--seed", type=int, metavar="N", help="Sampling seed.  [default: 0]")
@click.option(
    "--logprobs/--no-logprobs",
    default=None,
    help="Record how probable each token was, if the endpoint says it.  [default: yes]",
)
@click.option("--top-logprobs", type=click.IntRange(0, 20), metavar="N", help="Alternatives per token.  [default: 0]")
@click.option(
    "--batch/--no-batch",
    default=None,
    help="Use the Batch API, which is cheaper and can take a day.  [default: if it saves 0.10 or more]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    metavar="N",
    default=RecordOptions.concurrency,
    show_default=True,
    help="Maximum concurrent requests without the Batch API.",
)
@click.option("--rate-limit", type=shared.NumberRange(min=0.01), metavar="N", help="Maximum requests per minute.")
@click.option(
    "--timeout",
    type=shared.NumberRange(min=0),
    metavar="SECONDS",
    help="Maximum time to wait for batches; exit code 8 after that.",
)
@click.option("--max-cost", metavar="USD", help="Stop before the next request could make the recording cost more.")
@click.option("-y", "--yes", is_flag=True, help="Spend money without asking.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan with its cost and stop.")
@shared.trust_host
@pass_cli_context
def record(context: CliContext, /, **params: Any) -> None:
    """Record how MODEL answers: once greedily and, with --samples, several times at a temperature.

    MODEL is the name of a tuned model, an alias, a job or a base model. The plan and its cost are shown, and you are
    asked before money is spent. Each answer is on the disk when it arrives: after any interruption the same command
    continues, and asks for no answer again. Held-out prompts are best: on prompts that the model was trained on, its
    answers say little about new ones.
    """
    options = RecordOptions(**params)
    started_at = time.monotonic()
    if not (options.prompts or options.log or options.training):
        raise UsageError(
            "no prompts were given",
            "add --prompts FILE with held-out data, --log FILE with earlier requests, or --training auto",
        )
    for path in (*options.prompts, *options.log):
        require_file(path)
    settings = context.settings({"provider": options.provider, "max_cost": options.max_cost})
    plan = plan_recording(context, settings, options)
    if options.dry_run:
        return
    result = run_recording(context, settings, plan, options)
    show_result(context, result, plan, seconds=time.monotonic() - started_at)


def plan_recording(context: CliContext, settings: Settings, options: RecordOptions) -> RecordingPlan:
    """Read the prompts, show the plan on stderr, and check that the budget allows it.

    Raises:
        UsageError: The model's provider is not known, or there are no prompts.
        CostLimitError: The estimate is over the budget, or there is a budget and no price is known.
    """
    from ftpipe.catalog.base_models import find_base
    from ftpipe.migration.record import RecordingStore, default_path, make_plan
    from ftpipe.migration.recording import read_header, require_same_settings
    from ftpipe.providers.deadlines import days_left
    from ftpipe.providers.profiles import find_profile
    from ftpipe.tokenization import base_of

    registered = _registered(context, settings, options.model)
    name = _provider_name(settings, options, registered)
    model = _model_name(options.model, registered)
    prompts = read_prompts(context, settings, options, model, registered)
    path = options.output or default_path(model)
    provider = context.provider(name, settings)
    header = _header(options, path, provider.endpoint, name, model, registered.base if registered else base_of(model))
    header = header.model_copy(update={"sampling": _with_max_tokens(header.sampling, options, path, prompts)})
    if path.exists():
        require_same_settings(path, read_header(path), header)
    profile = find_profile(name, settings.config.providers)
    known = find_base(header.base)
    day = known.shutdown.get(profile.target) if known else None
    shutdown = (registered.base_shutdown_date if registered else None) or (day.isoformat() if day else None)
    plan = make_plan(
        header,
        list(prompts.prompts.values())[: options.limit],
        path,
        profile=profile,
        store=RecordingStore(provider.endpoint, model),
        batch=options.batch,
        days_left=days_left(shutdown, datetime.now(UTC).date()),
    )
    _show_plan(context, settings, plan, prompts)
    _check_budget(settings, plan)
    return plan


def _registered(context: CliContext, settings: Settings, name: str) -> Model | None:
    try:
        return context.registry(settings).models.get(name)
    except UsageError:
        return None


def _model_name(name: str, registered: Model | None) -> str:
    """The name at the endpoint; a checkpoint has its own."""
    if registered is None:
        return name
    return name if name in {checkpoint.model for checkpoint in registered.checkpoints} else registered.id


def _provider_name(settings: Settings, options: RecordOptions, registered: Model | None) -> str:
    if options.provider or registered is None:
        if settings.config.provider:
            return settings.config.provider
        raise UsageError(
            f"the registry does not know {options.model}, so its provider is unknown",
            "add --provider NAME; `ftpipe models list` shows the models that are known",
        )
    return registered.provider


def read_prompts(
    context: CliContext, settings: Settings, options: RecordOptions, model: str, registered: Model | None
) -> PromptList:
    """Read the prompts of all sources, mark those that the model was trained on, and say what was left out.

    Raises:
        UsageError: ``--training auto`` was given, and the file is not known or was changed.
    """
    from ftpipe.evaluation.training_overlap import find_training_file
    from ftpipe.migration.prompts import PromptList, add_dataset, add_log, prompt_ids

    prompts = PromptList()
    for path in options.prompts:
        add_dataset(prompts, path, "held-out")
    for path in options.log:
        add_log(prompts, path, model=None if options.any_model else model)
    known = find_training_file(registered, context.registry(settings)) if registered else None
    if options.training == AUTO and known is None:
        raise UsageError(
            f"the registry does not know the training file of {model}, or the file was changed",
            "name it with --training FILE",
        )
    training = known if options.training in (None, AUTO) else Path(options.training)
    if training is not None:
        require_file(training)
        held_out = prompts.mark_seen(prompt_ids(training))
        if held_out:
            context.warn_once(
                f"{plural(held_out, 'held-out prompt')} in the training file: the model has seen them, and they are "
                "marked as seen"
            )
        if options.training is not None:
            add_dataset(prompts, training, "training")
    if not prompts.prompts:
        raise UsageError("the files have no prompts", "each row needs messages with a turn of the user")
    return prompts


def _header(options: RecordOptions, path: Path, endpoint: str, provider: str, model: str, base: str) -> RecordingHeader:
    """The header of a new file, or of the existing one with what the options change."""
    from ftpipe.migration.recording import RecordingHeader, RecordingSampling, repair_last_line

    existing = repair_last_line(path) if path.exists() else None
    sampling = existing.sampling if existing else RecordingSampling(max_tokens=DEFAULT_MAX_TOKENS)
    names = ("samples", "temperature", "max_tokens", "seed", "logprobs", "top_logprobs")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return RecordingHeader(
        model=model,
        base=base,
        provider=provider,
        endpoint=endpoint,
        sampling=sampling.model_copy(update=given),
        created_at=int(time.time()),
    )


def _with_max_tokens(
    sampling: RecordingSampling, options: RecordOptions, path: Path, prompts: PromptList
) -> RecordingSampling:
    """With room for every expected answer, unless the option or the existing file says how much."""
    from ftpipe.evaluation.items import estimate_max_tokens

    if options.max_tokens is not None or path.exists():
        return sampling
    expected = [prompt.to_item() for prompt in prompts.prompts.values() if prompt.expected is not None]
    limit = estimate_max_tokens(expected) if expected else 0
    return sampling.model_copy(update={"max_tokens": max(sampling.max_tokens, limit)})


def _show_plan(context: CliContext, settings: Settings, plan: RecordingPlan, prompts: PromptList) -> None:
    from ftpipe.cli.host_confirmation import provider_title

    header, cost = plan.header, plan.cost
    counts = {origin: 0 for origin in ("held-out", "log", "training")}
    for prompt in plan.prompts:
        counts[prompt.origin] += 1
    origins = ", ".join(f"{number:,} {origin}" for origin, number in counts.items() if number)
    recorded = len(plan.prompts) - len(plan.missing)
    sampling = header.sampling
    answers = "greedy" + (
        f" and {plural(sampling.samples, 'sample')} at temperature {sampling.temperature:g}" if sampling.samples else ""
    )
    rows = [
        ("model", sanitize_line(header.model, 200)),
        ("host", provider_title(header.provider, settings, context.environment())),
        ("prompts", origins + (f"; {recorded:,} are recorded already" if recorded else "")),
        ("answers", f"{answers}, at most {sampling.max_tokens:,} tokens each"),
        ("requests", _requests_text(plan)),
        ("cost", _cost_text(cost) if cost.requests else ""),
        ("file", sanitize_line(plan.path, 300)),
    ]
    context.print_status(format_fields(rows, style=context.style_err))
    if prompts.skipped:
        context.print_status(f"{plural(sum(prompts.skipped.values()), 'row')} left out:")
        context.print_status([f"  {sanitize_line(row, 300)}" for row in prompts.skipped_rows])
    if prompts.not_sent:
        named = ", ".join(f"{key} ({number:,})" for key, number in prompts.not_sent.most_common())
        context.warn_once(f"parameters of logged requests that are not sent, so that answers can differ: {named}")
    context.add(
        model=header.model,
        output=plan.path,
        prompts=counts,
        recorded=recorded,
        sampling=sampling,
        batch=plan.has_batch,
        cost=cost,
        skipped=dict(prompts.skipped),
        not_sent=dict(prompts.not_sent),
    )


def _cost_text(cost: RecordingCost) -> str:
    if cost.expected is None:
        return f"unknown ({cost.source})"
    if not cost.high:
        return "free, on your own machine"
    amount = f"about {format_money(cost.expected, cost.currency)}, at most {format_money(cost.high, cost.currency)}"
    return f"{amount} (prices of {cost.price_as_of}, {cost.source})"


def _requests_text(plan: RecordingPlan) -> str:
    if not plan.cost.requests:
        return "none: everything is answered"
    return f"{plan.cost.requests:,} {'in batches' if plan.has_batch else 'one by one'}: {plan.reason}"


def _check_budget(settings: Settings, plan: RecordingPlan) -> None:
    """Refuse what is expected to cost more than the limit; while answers arrive, the recorder keeps the limit.

    Raises:
        CostLimitError: So it is, or no price is known.
    """
    limit, cost = settings.config.max_cost, plan.cost
    if limit is None or not cost.requests:
        return
    if cost.expected is None:
        raise CostLimitError(
            f"no price of answers is known for {plan.header.base or plan.header.model}: --max-cost cannot be checked",
            "add the price with `ftpipe config prices FILE`, or leave --max-cost out and add --yes",
        )
    if cost.expected > limit:
        raise CostLimitError(
            f"the answers cost about {format_money(cost.expected, cost.currency)}, over the limit of "
            f"{format_money(limit, cost.currency)}",
            "record fewer prompts with --limit or fewer --samples, or raise --max-cost",
        )


def run_recording(
    context: CliContext, settings: Settings, plan: RecordingPlan, options: RecordOptions
) -> RecordingResult:
    """Ask before money is spent, then record.

    Raises:
        InterruptedRunError: Ctrl-C was pressed; the same command continues.
    """
    from ftpipe.cli.output.progress import item_progress
    from ftpipe.cli.output.run import host_of
    from ftpipe.evaluation.request_runner import RateLimiter
    from ftpipe.migration.record import Recorder

    provider = context.provider(plan.header.provider, settings)
    if provider.profile.paid and plan.cost.requests and not options.yes:
        context.confirm(f"Pay for these answers at {host_of(provider)}: go ahead?")
    with (
        context.interruptible("interrupted; answers so far are recorded", "run the same command again to continue"),
        item_progress(context, "recording", "answer") as progress,
    ):
        recorder = Recorder(
            plan=plan,
            provider=provider,
            registry=context.registry(settings),
            max_cost=settings.config.max_cost,
            concurrency=options.concurrency,
            rate_limiter=RateLimiter(options.rate_limit),
            timeout=options.timeout,
            on_status=context.print_status,
            on_progress=progress,
        )
        return recorder.run()


def show_result(context: CliContext, result: RecordingResult, plan: RecordingPlan, *, seconds: float) -> None:
    """Write what the recording has."""
    context.add(recording=result, seconds=round(seconds, 1))
    samples = 1 + plan.header.sampling.samples
    answers = f"{result.prompts * samples:,} answers to {plural(result.prompts, 'prompt')}"
    context.print_result(f"{sanitize_line(result.path, 300)}  {answers} of {sanitize_line(result.model, 200)}")
    notes = []
    if result.refused:
        notes.append(f"{plural(result.refused, 'request')} refused by the endpoint; the reason is in the file")
    if result.truncated:
        notes.append(f"{plural(result.truncated, 'answer')} cut off at {plan.header.sampling.max_tokens:,} tokens")
    if plan.header.sampling.logprobs and result.without_logprobs:
        notes.append(f"{plural(result.without_logprobs, 'answer')} without logprobs, which the endpoint did not give")
    if result.spent:
        notes.append(f"cost {format_money(result.spent, result.currency)}, by the tokens that the endpoint counted")
    context.print_status(notes)
    if any(prompt.origin != "held-out" for prompt in plan.prompts):
        context.print_next(f"ftpipe distill {quote(str(result.path))} --output train.jsonl")
