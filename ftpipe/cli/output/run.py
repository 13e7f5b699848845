"""Run the rest of a pipeline with a display and show its result, for ``train``, ``resume`` and ``status``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ftpipe.cli.context import CliContext
from ftpipe.cli.output.live import make_display
from ftpipe.errors import InterruptedRunError
from ftpipe.formatting import sanitize_line
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import Job, Model, Run, RunState, TrainingMetrics
from ftpipe.reports.runs import model_lines

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider


def run_with_display(context: CliContext, pipeline: Pipeline, run: Run, *, detach: bool, timeout: float | None) -> Run:
    """Advance a run to its end, or with ``detach`` until its job exists; the JSON document is filled in any case.

    Raises:
        FtpipeError: As ``Pipeline.advance`` raises them.
        InterruptedRunError: Ctrl-C was pressed.
    """
    display = make_display(context)
    if run.job is not None and run.state == RunState.CREATED:
        display.metrics.extend(pipeline.registry.jobs.metrics(run.job.id))
    try:
        with display:
            pipeline.observer = display
            return pipeline.advance(run, wait=not detach, timeout=timeout)
    except KeyboardInterrupt as exc:
        raise InterruptedRunError(_interrupt_message(run, display.job), f"ftpipe resume {run.id}") from exc
    except Exception as exc:
        exc.add_note(f"ftpipe resume {run.id}")
        raise
    finally:
        run = pipeline.registry.runs.get(run.id)
        add_run(context, run, run.job, pipeline.registry.jobs.metrics(run.job.id) if run.job else [])


def _interrupt_message(run: Run, job: Job | None) -> str:
    job = job or run.job
    if job is None or job.is_finished:
        return f"interrupted; the state of {run.id} is saved"
    return f"interrupted; {sanitize_line(job.id, 80)} continues at {sanitize_line(job.provider, 40)}"


def add_run(context: CliContext, run: Run | None, job: Job | None, metrics: Sequence[TrainingMetrics]) -> None:
    """Add a run, its job, model, metrics and cost to the JSON document."""
    context.add(
        run=run.model_dump(mode="json", exclude={"job", "model", "cost"}) if run else None,
        job=job,
        model=run.model if run else None,
        metrics=metrics,
        cost=run.cost if run else None,
    )


def print_result(context: CliContext, provider: Provider, run: Run, *, started_at: float | None) -> None:
    """Show the model and how to use it, or how to return to the job.

    Args:
        context: Writes lines.
        provider: The endpoint of the run.
        run: The run.
        started_at: Monotonic seconds at which the command started; ``None`` if the model existed before.
    """
    if run.model is not None:
        context.print_result(model_lines(run.model, usage_lines=usage_lines(run.model, provider), style=context.style))
        if started_at is not None:
            context.print_status(f"done in {time.monotonic() - started_at:.0f} s")
        command = "deployments create" if provider.profile.deployments else "chat"
        context.print_next(f"ftpipe {command} {quote(run.model.id)}")
    elif run.job is not None:
        context.print_result(f"job  {run.job.id}  {run.job.status}")
        context.print_next(f"ftpipe resume {run.id}   or   ftpipe status {run.job.id}")


def usage_lines(model: Model, provider: Provider) -> list[str]:
    """List the ways to use a model, one per line."""
    lines = [f"on the command line   ftpipe chat {quote(model.id)}"]
    if provider.profile.deployments:
        return [*lines, f"deploy it first       ftpipe deployments create {quote(model.id)}   (billed per hour)"]
    if provider.profile.deployment_hint:
        return [*lines, f"deploy it first       {provider.profile.deployment_hint}"]
    if provider.endpoint.startswith("local:"):
        return [*lines, "any OpenAI client     `ftpipe serve status` shows its base_url, `ftpipe serve key` its key"]
    return [*lines, f"any OpenAI client     base_url={sanitize_line(provider.base_url, 300)}"]


def host_of(provider: Provider) -> str:
    """The host that gets the requests, for a question."""
    return sanitize_line(urlsplit(provider.base_url).netloc or provider.base_url, 200)
