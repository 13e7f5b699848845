"""A run from where it stands to its end, shown as it goes; ``train`` and ``resume`` share it."""

from __future__ import annotations

import time
from shlex import quote
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.cli.output.live import make_display
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import Job, Model, Run
from ftpipe.registry import Registry
from ftpipe.reports.runs import model_lines

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider


def run_with_display(context: CliContext, pipeline: Pipeline, run: Run, *, detach: bool, timeout: float | None) -> Run:
    """Bring a run to its end, or with ``detach`` until its job exists; the document is filled whatever happens.

    Raises:
        FtpipeError: As ``Pipeline.advance`` raises them.
    """
    context.interrupt_message = f"interrupted; {run.id} keeps what was done"
    context.resume_hint = f"ftpipe resume {run.id}"
    try:
        with make_display(context) as picture:
            pipeline.observer = picture
            run = pipeline.advance(run, wait=not detach, timeout=timeout)
    finally:
        add_run(context, pipeline.registry, pipeline.registry.runs.get(run.id))
    return run


def add_run(context: CliContext, registry: Registry, run: Run | None, job: Job | None = None) -> None:
    """Put a run, its job, model, metrics and cost into the document."""
    job = job or (run.job if run else None)
    context.add(
        run=run.model_dump(mode="json", exclude={"job", "model", "cost"}) if run else None,
        job=job,
        model=run.model if run else None,
        metrics=registry.jobs.metrics(job.id) if job else [],
        cost=run.cost if run else None,
    )


def print_result(context: CliContext, provider: Provider, run: Run, *, begun: float) -> None:
    """Say what came out: the model and how to use it, or how to come back to the job."""
    if run.model is not None:
        context.print_result(model_lines(run.model, usage_lines=usage_lines(run.model, provider), style=context.style))
        context.print_status(f"done in {time.monotonic() - begun:.0f} s")
        context.print_status(f"{context.style_err('bold', 'Next:')} ftpipe chat {quote(run.model.id)}")
    elif run.job is not None:
        context.print_result(f"job  {run.job.id}  {run.job.status}")
        context.print_status(
            f"{context.style_err('bold', 'Next:')} ftpipe resume {run.id}   or   ftpipe status {run.job.id}"
        )


def usage_lines(model: Model, provider: Provider) -> list[str]:
    """The ways to use a model, a line each."""
    lines = [f"on the command line   ftpipe chat {quote(model.id)}"]
    if provider.profile.deployment_hint:
        return [*lines, f"before it answers     {provider.profile.deployment_hint}"]
    if provider.profile.name == "local":
        return [*lines, "any OpenAI client     base_url and key as `ftpipe serve status` shows them"]
    return [*lines, f"any OpenAI client     base_url={provider.profile.base_url or provider.profile.base_url_env}"]
