"""``ftpipe train``: check, show the plan, ask before money is spent, then upload, create, watch and register."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options
from ftpipe.cli.commands.prepare import refuse_errors, settings_of, show
from ftpipe.cli.commands.train_sweep import SweepCommand, sweep_options
from ftpipe.cli.commands.train_sweep import run_sweep as carry_out_sweep
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import DatasetRequest, resolve_for_train, spec_of, validate_and_count
from ftpipe.config import Settings
from ftpipe.formatting import plural, relative_path
from ftpipe.records import Report, RunSpec
from ftpipe.reports.runs import plan_lines

if TYPE_CHECKING:
    from ftpipe.pipeline.preflight import Plan

job_options = options.combine_options(
    options.provider,
    options.model,
    options.epochs,
    click.option("--batch-size", metavar="N", help="Examples per step: 1 to 256, or auto."),
    click.option("--learning-rate-multiplier", metavar="X", help="Scales the model's own learning rate, or auto."),
    click.option("--beta", metavar="X", help="For dpo: above 0 to 2, higher stays closer to the base; or auto."),
    click.option("--suffix", metavar="TEXT", help="Part of the tuned model's name."),
    options.seed,
    options.method,
)


@click.command(
    cls=SweepCommand,
    example="ftpipe train data/support_desk/train.jsonl --validation data/support_desk/validation.jsonl --epochs 3\n"
    "ftpipe train --sweep n_epochs=1,3 learning_rate_multiplier=0.5,1,2",
)
@options.data
@options.validation
@job_options
@click.option("--max-cost", metavar="USD", help="Refuse where the estimate is higher.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before spending.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--detach", is_flag=True, help="Return when the job exists.")
@click.option("--again", is_flag=True, help="A new job, even where the same one was made before.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait at most so long; then exit 8.")
@sweep_options
@pass_cli_context
def train(context: CliContext, /, data: Path | None, **flags: Any) -> None:
    """Train a model on a dataset and register it.

    Runs on this machine for free where no provider is chosen. Without DATA it takes the dataset that was prepared
    last, or the configured one. Shows the plan and what it costs, and asks before it spends. Ctrl-C leaves the job
    running; `ftpipe resume` goes on after any interruption and never pays twice.
    """
    begun = time.monotonic()
    settings = context.settings(settings_of(flags))
    request = resolve_for_train(settings, context, given=data)
    report = validate_and_count(context, settings, request, for_job=True)
    refuse_faulty(context, report, request)
    spec = spec_of(settings, request, report)
    if flags["sweep"]:
        carry_out_sweep(context, settings, spec, report, flags)
        return
    plan = show_plan(context, settings, spec, report)
    if flags["dry_run"]:
        return
    run_training(context, settings, plan, flags, begun=begun)


def refuse_faulty(context: CliContext, report: Report, request: DatasetRequest) -> None:
    """Show the findings of a dataset that will not do, and end."""
    if not report.ok:
        show(context, report)
    elif report.summary.warnings:
        many = plural(report.summary.warnings, "warning")
        context.print_status(f"{many} about the data; `ftpipe prepare {relative_path(request.data)}` shows them")
    refuse_errors(report, request)


def show_plan(context: CliContext, settings: Settings, spec: RunSpec, report: Report) -> Plan:
    """Show the plan on stderr, and refuse what the budget does not allow."""
    from ftpipe.pipeline.preflight import make_plan
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(spec.provider, settings.config.providers)
    context.add(plan=spec, dataset=report.dataset, tokens=report.tokens, cost=report.cost)
    context.print_status(plan_lines(spec, report, profile.title or profile.name, context.style_err))
    today = datetime.now(UTC).date()
    plan = make_plan(spec, report, profile=profile, today=today, max_cost=settings.config.max_cost)
    if plan.notice:
        context.print_status(f"  {'note':<8}{plan.notice}")
    plan.raise_blocker()
    return plan


def run_training(context: CliContext, settings: Settings, plan: Plan, flags: dict[str, Any], *, begun: float) -> None:
    """Open the endpoint, ask, and run the pipeline to its end."""
    from ftpipe.cli.output.run import print_result, run_with_display

    provider = context.provider(plan.spec.provider, settings)
    if provider.profile.paid and not flags["yes"]:
        context.confirm("Go ahead?")
    registry = context.registry(settings)
    pipeline = context.pipeline(provider, registry)
    run = pipeline.start(plan, force_new=flags["again"])
    run = run_with_display(context, pipeline, run, detach=flags["detach"], timeout=flags["timeout"])
    print_result(context, provider, run, begun=begun)
