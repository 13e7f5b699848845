"""Read the state of a run at its endpoint, once or until its job has ended; nothing is saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.providers.provider import Provider
from ftpipe.records import Event, Job, Run, TrainingMetrics
from ftpipe.registry import Registry
from ftpipe.registry.jobs import metrics_of
from ftpipe.stages.poll import PollJob
from ftpipe.stages.register import model_of


@dataclass(frozen=True)
class CurrentStatus:
    """A run as its endpoint reports it now."""

    run: Run
    """With its job, and its model if the job has succeeded, even if that model is not in the registry yet."""
    metrics: list[TrainingMetrics]


def saved_status(run: Run, registry: Registry) -> CurrentStatus:
    """A run as it was last saved."""
    return CurrentStatus(run, registry.jobs.metrics(run.job.id) if run.job else [])


def read_status(run: Run, provider: Provider, registry: Registry) -> CurrentStatus:
    """Read the job of a run once.

    Raises:
        ProviderError: The endpoint did not answer, or does not know the job.
    """
    if run.job is None:
        return saved_status(run, registry)
    job = as_requested(run.job, provider.jobs.get(run.job.id))
    events = registry.jobs.events(job.id)
    events += provider.jobs.events(job.id, known={event.id for event in events})
    return _with_model(run, job, events, provider)


def watch_status(
    run: Run,
    provider: Provider,
    registry: Registry,
    *,
    observer: PipelineObserver,
    sleep: Callable[[float], None] = time.sleep,
) -> CurrentStatus:
    """Poll the job of a run until it has ended.

    Raises:
        ProviderError: The endpoint did not answer, or does not know the job any more.
    """
    if run.job is None:
        return saved_status(run, registry)
    events = registry.jobs.events(run.job.id)

    def on_events(new: list[Event]) -> None:
        events.extend(new)
        for event in new:
            observer.on_event(event)
        for metric in metrics_of(new):
            observer.on_metric(metric)

    observer.on_stage("poll")
    job = PollJob(
        run.job,
        provider,
        known_events={event.id for event in events},
        on_job=observer.on_job,
        on_events=on_events,
        on_status=observer.on_status,
        sleep=sleep,
    ).run()
    return _with_model(run, as_requested(run.job, job), events, provider)


def as_requested(before: Job, job: Job) -> Job:
    """A job that was just read, with what its endpoint does not report."""
    update = {"requested": before.requested, "method": before.method, "suffix": before.suffix or job.suffix}
    return job.model_copy(update=update)


def _with_model(run: Run, job: Job, events: list[Event], provider: Provider) -> CurrentStatus:
    metrics = metrics_of(events)
    run = run.model_copy(update={"job": job})
    if run.model is None and job.status == "succeeded" and job.is_finished:
        run = run.model_copy(update={"model": model_of(job, run=run, provider=provider, metrics=metrics)})
    return CurrentStatus(run, metrics)
