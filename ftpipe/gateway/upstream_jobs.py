"""Creates the jobs of clients at a provider, exactly once and within a budget, and brings back how they go on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from ftpipe.errors import (
    CostLimitError,
    DatasetError,
    FtpipeError,
    LocalStateError,
    NotFoundError,
    QuotaError,
    RequestRefusedError,
    TrainingNotAvailableError,
    UsageError,
)
from ftpipe.gateway.file_check import REPORT_FILE
from ftpipe.gateway.upstream_errors import UpstreamMessages
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.providers.provider import Provider
from ftpipe.records import CostEstimate, Event, Hyperparameters, Method, Report, Run, RunSpec, RunState
from ftpipe.registry import Registry
from ftpipe.server.clock import now
from ftpipe.server.jobs.transitions import Fail, Succeed, TransitionWriter
from ftpipe.server.model_resolver import checkpoint_name
from ftpipe.server.protocol import new_id
from ftpipe.server.storage import CheckpointRow, EventRow, JobRow, Store
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.stages.create_job import KIND
from ftpipe.training.metrics_csv import write_metrics

log = logging.getLogger("ftpipe.server.gateway")

JOB_KEY = "ftpipe_gateway_job"
"""Metadata key with the job's id at the gateway: each job that a client creates is a run of its own."""
MAX_METADATA_PAIRS = 13
"""Of the client's own; ftpipe adds three, and OpenAI takes 16."""
RUNNING_STATUSES = frozenset({"validating_files", "queued", "running"})
BUDGET_LOCK = "gateway budget"
REFUSALS: tuple[tuple[type[FtpipeError], str], ...] = (
    (DatasetError, "invalid_training_file"),
    (CostLimitError, "exceeded_quota"),
    (QuotaError, "insufficient_quota"),
    (TrainingNotAvailableError, "model_not_available"),
    (NotFoundError, "model_not_found"),
    (RequestRefusedError, "invalid_request"),
    (UsageError, "invalid_request"),
)
"""Errors after which a job surely does not exist and would be refused again, with the code of the job's error."""


class JobCancelledError(FtpipeError):
    """The job was cancelled before it was created at the provider."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What jobs may cost, in the currency of the provider's prices; ``None`` for no limit."""

    per_job: float | None
    total: float | None
    """For all jobs that were ever created through the gateway's data folder."""


class UpstreamJobs:
    """The jobs of one provider.

    Args:
        store: The server's database.
        data_dir: The server's folder.
        registry: The gateway's own registry.
        limits: What jobs may cost.
        key: The provider's key, which no message may show.
        sleep: Waits between attempts; raises an error when the server stops.
    """

    def __init__(
        self,
        store: Store,
        data_dir: DataDirectory,
        registry: Registry,
        limits: JobLimits,
        *,
        key: str,
        sleep: Callable[[float], None],
    ) -> None:
        self._store = store
        self._data_dir = data_dir
        self._registry = registry
        self._limits = limits
        self._key = key
        self._sleep = sleep
        self._writer = TransitionWriter(store, data_dir)

    def is_created(self, job: JobRow) -> bool:
        """Whether the job exists at the provider, as far as the registry knows."""
        return job.upstream_run is not None and self._registry.runs.get(job.upstream_run).job is not None

    def create(self, job: JobRow, provider: Provider) -> None:
        """Upload the files and create the job; again after an interruption, with the same result.

        Raises:
            FtpipeError: It did not succeed, and can be tried again.
        """
        try:
            run = self._started_run(job, provider)
            max_cost = self._max_cost(job) if provider.profile.paid else None  # for the host's own estimate
            run = self._pipeline(provider, job, max_cost=max_cost).advance(run, wait=False)
        except JobCancelledError:
            self._abandon(job, "it was cancelled")
        except FtpipeError as exc:
            code = next((code for kind, code in REFUSALS if isinstance(exc, kind)), None)
            if code is None:
                raise
            self._abandon(job, exc.message)
            message = self._messages(job, provider).public(exc.message)
            self._writer.apply(job, Fail({"code": code, "message": message, "param": None}))
        else:
            self._save_progress(job, run, provider)

    def poll(self, job: JobRow, provider: Provider) -> None:
        """Read the job once, and save what is new.

        Raises:
            FtpipeError: The provider did not answer.
        """
        run = self._registry.runs.get(job.upstream_run or "")
        self._save_progress(job, self._pipeline(provider, job).refresh(run), provider)

    def cancel(self, job: JobRow, provider: Provider) -> None:
        """Cancel a job at the provider; one whose creation is in doubt is found first.

        Raises:
            FtpipeError: The provider did not answer.
        """
        run = self._registry.runs.get(job.upstream_run or "")
        if run.job is None and self._may_exist(run):
            run = Pipeline(provider=provider, registry=self._registry, sleep=self._sleep).advance(run, wait=False)
        if run.job is None:
            self._abandon(job, "it was cancelled")
        else:
            try:
                provider.jobs.cancel(run.job.id)
            except (NotFoundError, RequestRefusedError) as exc:
                log.info("job %s has ended at the provider: %s", job.id, exc.message)
        with self._store.write() as tx:
            tx.jobs.update(job.id, has_trainer=False)

    def _started_run(self, job: JobRow, provider: Provider) -> Run:
        """The run of a job, which counts for the budget from now on."""
        if job.upstream_run is not None:
            return self._registry.runs.get(job.upstream_run)
        pipeline = self._pipeline(provider, job)
        is_paid = provider.profile.paid
        plan = pipeline.plan_for(
            _spec_of(job, self._data_dir, provider),
            self._report(job),
            max_cost=self._limits.per_job if is_paid else None,
        )
        with self._registry.lock(BUDGET_LOCK):
            if is_paid:
                self._require_budget(job, plan.cost)
            run = pipeline.start(plan)
        job.upstream_run = run.id
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            if current is None or current.status != "queued":
                raise JobCancelledError("the job was cancelled")
            # has_trainer: the provider must hear of a later cancellation
            tx.jobs.update(job.id, upstream_run=run.id, has_trainer=True)
            for notice in plan.notices:
                tx.events.append_message(job.id, self._messages(job, provider).public(notice))
        return run

    def _require_budget(self, job: JobRow, cost: CostEstimate | None) -> None:
        """Refuse a job with which all jobs together could cost more than they may.

        Raises:
            CostLimitError: They could, or the job has no known price.
        """
        left = self._left_for(job)
        if left is None:
            return
        high = None if cost is None else cost.high
        if high is None:
            raise CostLimitError("no training price is known for this model, and the gateway has a cost limit")
        if high > left:
            raise CostLimitError(f"the job may cost up to {high:.2f}, and {left:.2f} of the gateway's limit is left")

    def _left_for(self, job: JobRow) -> float | None:
        """What is left of the limit of all jobs for one of them; ``None`` for no limit."""
        if self._limits.total is None:
            return None
        runs = self._registry.runs.recent(None)
        spent = sum(spent_on(run) for run in runs if run.spec.metadata.get(JOB_KEY) != job.id)
        return max(0.0, self._limits.total - spent)

    def _max_cost(self, job: JobRow) -> float | None:
        limits = [limit for limit in (self._limits.per_job, self._left_for(job)) if limit is not None]
        return min(limits, default=None)

    def _report(self, job: JobRow) -> Report:
        path = self._data_dir.job(job.id).path / REPORT_FILE
        try:
            return Report.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise LocalStateError(f"the report of job {job.id} cannot be read: {exc}") from exc

    def _may_exist(self, run: Run) -> bool:
        """Whether the paid call of a run was made with an unknown outcome."""
        operation = self._registry.journal.find(self._registry.runs.operation_key(run, KIND))
        return operation is not None and operation.state in ("intended", "unknown")

    def _abandon(self, job: JobRow, reason: str) -> None:
        """Mark the run of a job that was surely not created as failed, so that it costs nothing."""
        if job.upstream_run is not None:
            run = self._registry.runs.get(job.upstream_run)
            self._registry.runs.save(run.model_copy(update={"state": RunState.FAILED, "error": reason}))
        with self._store.write() as tx:
            tx.jobs.update(job.id, has_trainer=False)

    def _pipeline(self, provider: Provider, job: JobRow, *, max_cost: float | None = None) -> Pipeline:
        observer = _CancelObserver(lambda: self._is_cancelled(job))
        return Pipeline(
            provider=provider, registry=self._registry, observer=observer, sleep=self._sleep, max_cost=max_cost
        )

    def _messages(self, job: JobRow, provider: Provider) -> UpstreamMessages:
        secrets = (self._key, urlsplit(provider.base_url).netloc)
        return UpstreamMessages(name=job.model, model=job.base, secrets=secrets)

    def _is_cancelled(self, job: JobRow) -> bool:
        with self._store.read() as tx:
            current = tx.jobs.get(job.id)
        return current is None or current.status == "cancelled"

    def _save_progress(self, job: JobRow, run: Run, provider: Provider) -> None:
        """Save what the provider says about a job: status, events, and in the end model and checkpoints."""
        remote = run.job
        if remote is None:
            return
        messages = self._messages(job, provider)
        self._save_events(job, remote.id, messages)
        changes: dict[str, Any] = {}
        if remote.status in RUNNING_STATUSES:
            changes["status"] = remote.status
        if remote.resolved is not None:
            changes["resolved_hyperparameters"] = _api_hyperparameters(remote.resolved)
        changes["estimated_finish"] = remote.estimated_finish
        if remote.status == "running" and job.started_at is None:
            changes["started_at"] = now()
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            if current is None or current.status not in RUNNING_STATUSES:
                return
            tx.jobs.update(job.id, **changes)
            current = tx.jobs.get(job.id)
        if current is None:
            return
        if run.state == RunState.REGISTERED and run.model is not None:
            self._succeed(current, run)
        elif remote.status == "failed":
            error = remote.error
            message = messages.public(error.message if error else "") or "The job failed at its host."
            code = (error.code if error else "") or "server_error"
            self._writer.apply(current, Fail({"code": code, "message": message, "param": None}))
        elif remote.status == "cancelled":
            with self._store.write() as tx:
                tx.jobs.update(job.id, status="cancelled", has_trainer=False, finished_at=now(), estimated_finish=None)
                tx.events.append_message(job.id, "The job was cancelled at its host")

    def _succeed(self, job: JobRow, run: Run) -> None:
        model, remote = run.model, run.job
        if model is None or remote is None:
            return
        metrics = self._registry.jobs.metrics(remote.id)
        steps = [metric.step for metric in metrics] + [checkpoint.step for checkpoint in model.checkpoints]
        write_metrics(self._data_dir.job(job.id).metrics_file, metrics)
        with self._store.write() as tx:
            tx.jobs.update(job.id, upstream_model=model.id)
            known = {row.step for row in tx.checkpoints.for_job(job.id)}
            for checkpoint in model.checkpoints:
                if checkpoint.step not in known:
                    known.add(checkpoint.step)
                    measured = checkpoint.metrics.model_dump(exclude_none=True, exclude={"total_steps"})
                    tx.checkpoints.add(
                        CheckpointRow(
                            id=new_id("ftckpt_"),
                            job_id=job.id,
                            created_at=checkpoint.created_at,
                            step=checkpoint.step,
                            model_name=checkpoint_name(job.model_name, checkpoint.step),
                            metrics=measured,
                            upstream_model=checkpoint.model,
                        )
                    )
        self._writer.apply(job, Succeed(max(steps, default=0), remote.trained_tokens, remote.finished_at))

    def _save_events(self, job: JobRow, remote_id: str, messages: UpstreamMessages) -> None:
        """Add the events that the client has not seen; ids of the provider become those of the gateway."""
        events = self._registry.jobs.events(remote_id)
        if len(events) <= job.events_offset:
            return
        with self._store.write() as tx:
            known = {row.id for row in tx.events.all(EventRow.job_id == job.id)}
            for event in events:
                row = _event_row(job, event, messages, remote_id)
                if row.id not in known:
                    known.add(row.id)
                    tx.events.add(row)
            tx.jobs.update(job.id, events_offset=len(events))


class _CancelObserver(PipelineObserver):
    """Ends the work on a job that its owner has cancelled, before anything is uploaded or paid."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def on_stage(self, name: str) -> None:
        """Look before each stage that sends something."""
        if name in ("upload", "create") and self._is_cancelled():
            raise JobCancelledError("the job was cancelled")


def spent_on(run: Run) -> float:
    """What a run has cost, or may cost in the end; nothing if its job was surely not created."""
    if run.job is None and run.state == RunState.FAILED:
        return 0.0
    if run.model is not None and run.model.actual_cost is not None:
        return run.model.actual_cost
    return (run.cost.high if run.cost else None) or 0.0


def _spec_of(job: JobRow, data_dir: DataDirectory, provider: Provider) -> RunSpec:
    directory = data_dir.job(job.id)
    own = dict(islice((job.user_metadata or {}).items(), MAX_METADATA_PAIRS))
    return RunSpec(
        provider=provider.profile.name,
        data=directory.training_file,
        validation=directory.validation_file if job.validation_file else None,
        model=job.base,
        method=Method(job.method),
        hyperparameters=_hyperparameters_of(job.requested_hyperparameters),
        suffix=job.suffix,
        seed=job.seed if job.has_requested_seed else None,
        grader=job.grader,
        metadata={**own, JOB_KEY: job.id},
    )


def _hyperparameters_of(requested: Mapping[str, Any]) -> Hyperparameters:
    """What the client requested, as the record that the pipeline translates for the provider."""
    fields = Hyperparameters.model_fields.keys() - {"extra"}
    named = {
        name: value
        for name, value in requested.items()
        if name in fields and not (value == "auto" and Hyperparameters.model_fields[name].default is None)
    }
    extra = {name: value for name, value in requested.items() if name not in fields and not isinstance(value, list)}
    try:
        return Hyperparameters(**named, extra=extra)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc


def _api_hyperparameters(resolved: Hyperparameters) -> dict[str, Any]:
    values = resolved.model_dump(mode="json", exclude={"extra"}, exclude_none=True)
    return {**values, **resolved.extra}


def _event_row(job: JobRow, event: Event, messages: UpstreamMessages, remote_id: str) -> EventRow:
    digest = hashlib.sha256(f"{job.id}\n{event.id}".encode()).hexdigest()
    return EventRow(
        id=f"ftevent-{digest[:24]}",
        job_id=job.id,
        created_at=event.created_at,
        level=event.level,
        type=event.type,
        message=messages.public(event.message.replace(remote_id, job.id)),
        data=event.data or None,
    )
