"""The pipeline: ``prepare`` (validate, count) → ``start`` (remember) → ``advance`` (upload, create, poll, register)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ftpipe.errors import FtpipeError, JobFailedError, LocalStateError, UsageError
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.preflight import enforce_budget, require_supported, require_valid_dataset
from ftpipe.providers.provider import Provider
from ftpipe.records import Dataset, Event, Job, JobRequest, Method, Report, Run, RunSpec, RunState, UploadedFile
from ftpipe.records.keys import run_key
from ftpipe.registry import Registry
from ftpipe.registry.jobs import metrics_of
from ftpipe.stages.create import KIND, CreateJob
from ftpipe.stages.poll import PollJob
from ftpipe.stages.register import refuse_unless_succeeded, register
from ftpipe.stages.upload import UploadDataset

if TYPE_CHECKING:
    from ftpipe.catalog.training_prices import PriceTable


def prepare(
    spec: RunSpec, *, target: str, prices: PriceTable | None = None, observer: PipelineObserver | None = None
) -> Report:
    """Validate and count what a run was asked to train on; nothing is sent.

    Args:
        spec: What is asked for.
        target: Whose rules apply: ``openai``, ``azure``, ``nebius`` or ``local``.
        prices: The price table; the package's own where not given.
        observer: Hears the progress in bytes.

    Raises:
        DatasetError: The file cannot be read as a dataset at all; findings are in the report, not raised.
    """
    from ftpipe.stages.count import count
    from ftpipe.stages.validate import validate

    heard, epochs = observer or PipelineObserver(), spec.hyperparameters.n_epochs
    heard.on_stage("validate")
    report = validate(
        spec.data,
        target=target,
        method=spec.method,
        model=spec.model,
        validation=spec.validation,
        for_job=True,
        on_progress=lambda done, total: heard.on_progress("validate", done, total),
    )
    heard.on_stage("count")
    return count(
        report,
        model=spec.model,
        epochs=None if epochs == "auto" else epochs,
        prices=prices,
        on_progress=lambda done, total: heard.on_progress("count", done, total),
    )


__all__ = ["Pipeline", "PipelineObserver"]

if TYPE_CHECKING:
    from ftpipe.catalog.training_prices import PriceTable

RUN_KEY_NAME = "ftpipe_run"  # metadata key that carries the run's id


class Pipeline:
    """Runs the stages against one endpoint and one registry.

    Args:
        provider: The endpoint, from ``open_provider``.
        registry: The memory, from ``open_registry``.
        observer: Hears what happens.
        sleep: Waits.
        clock: UTC Unix seconds.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        registry: Registry,
        observer: PipelineObserver | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self.registry = registry
        self.observer = observer or PipelineObserver()
        self.sleep, self.clock = sleep, clock
        provider.on_retry(lambda text: self.observer.on_status(text))

    def prepare(self, spec: RunSpec, *, prices: PriceTable | None = None) -> Report:
        """Validate and count; nothing is sent.

        Raises:
            DatasetError: The file cannot be read as a dataset at all; findings are in the report, not raised.
        """
        return prepare(spec, target=self.provider.profile.target, prices=prices, observer=self.observer)

    def start(self, spec: RunSpec, report: Report, *, again: bool = False, max_cost: float | None = None) -> Run:
        """Remember a run; the same data and parameters at the same endpoint are the same run.

        Args:
            spec: What is asked for.
            report: From ``prepare``.
            again: Make a new job even where one was made from the same data with the same parameters.
            max_cost: The most that the job may cost, in the currency of the estimate.

        Raises:
            DatasetError: The report has errors.
            CostLimitError: The estimate is over ``max_cost``, or not known.
            UsageError: The endpoint does not take what is asked.
            TrainingNotAvailableError: The endpoint takes no new jobs any more.
        """
        spec = spec.model_copy(update={"method": spec.method or report.method})
        require_valid_dataset(report)
        enforce_budget(report.cost, max_cost)
        today = datetime.fromtimestamp(self.clock(), UTC).date()
        require_supported(self.provider.profile, spec, today=today)
        validation_sha256 = report.validation.sha256 if report.validation else None
        key = run_key(
            spec,
            endpoint=self.provider.endpoint,
            dataset_sha256=report.dataset.sha256,
            validation_sha256=validation_sha256,
        )
        earlier = self.registry.runs_with_key(key)
        ordinal = 0
        if earlier:
            ordinal, last = earlier[-1]
            if not again and last.state != RunState.FAILED:
                return self._resume_existing(last, spec, report)
            ordinal += 1
        run = Run(
            id=f"run-{secrets.token_hex(6)}",
            spec=spec,
            endpoint=self.provider.endpoint,
            state=RunState.PREPARED,
            created_at=int(self.clock()),
            dataset_sha256=report.dataset.sha256,
            validation_sha256=validation_sha256,
            dataset=report.dataset,
            validation=report.validation,
            cost=report.cost,
        )
        return self.registry.start_run(run, key=key, ordinal=ordinal)

    def advance(self, run: Run, *, wait: bool = True, timeout: float | None = None) -> Run:
        """Upload, create, poll and register, from where the run stands.

        Args:
            run: From ``start`` or the registry.
            wait: Whether to wait for the end of the job; False returns when it exists.
            timeout: Seconds to wait at most; ``None`` waits until the end.

        Raises:
            JobFailedError: The job ended without a model.
            StillRunningError: The time is up; the job goes on.
            OutcomeUnknownError: The paid call may have been executed.
            FtpipeError: Anything else, with a hint; ``advance`` again goes on from the last committed step.
        """
        if run.state == RunState.REGISTERED:
            return run
        run = self._until_created(run)
        if not wait:
            return run
        run = self._until_finished(run, timeout)
        self.observer.on_stage("register")
        return self._finish(run)

    def resume(self, run_id: str | None = None, *, wait: bool = True, timeout: float | None = None) -> Run:
        """Go on with a run after any interruption.

        Args:
            run_id: A run's id, or its job's; ``None`` takes the latest.
            wait: As for ``advance``.
            timeout: As for ``advance``.

        Raises:
            UsageError: There is no such run.
        """
        run = self.registry.find_run(run_id) if run_id else self.registry.latest_run()
        if run is None:
            named = f"no run {run_id!r}" if run_id else "no run yet"
            raise UsageError(f"there is {named} in {self.registry.place}", "`ftpipe train` starts one")
        return self.advance(run, wait=wait, timeout=timeout)

    def refresh(self, run: Run) -> Run:
        """Take one look at the run's job; a job that has succeeded is registered."""
        if run.job is None or run.state in (RunState.REGISTERED, RunState.FAILED):
            return run
        job = self.provider.jobs.get(run.job.id)
        kept = {"requested": run.job.requested, "method": run.job.method, "suffix": run.job.suffix or job.suffix}
        run = self._save_job(run, job.model_copy(update=kept))
        known = {event.id for event in self.registry.events(job.id)}
        self._save_events(run, self.provider.jobs.events(job.id, known=known))
        if not job.is_finished:
            return run
        try:
            return self._finish(run)
        except JobFailedError:
            return self.registry.run(run.id)

    def _resume_existing(self, run: Run, spec: RunSpec, report: Report) -> Run:
        """The run that was started before; the data may lie elsewhere now."""
        if run.job is not None or run.spec == spec:
            return run
        moved = {"spec": spec, "dataset": report.dataset, "validation": report.validation}
        return self.registry.save_run(run.model_copy(update=moved))

    def _until_created(self, run: Run) -> Run:
        if run.job is not None:
            return run
        notice = self.observer.on_status
        with self.registry.exclusive(
            run.id, on_wait=lambda: notice(f"another ftpipe is starting {run.id}; waiting for it")
        ):
            run = self.registry.run(run.id)
            if run.job is not None:
                return run
            try:
                if run.state == RunState.PREPARED:
                    self.provider.jobs.check_can_create(run.spec.model)  # raises before anything is uploaded
                return self._create(self._upload(run))
            except FtpipeError as exc:
                self.registry.save_run(self.registry.run(run.id).model_copy(update={"error": exc.message}))
                raise

    def _upload(self, run: Run) -> Run:
        self.observer.on_stage("upload")
        if run.dataset is None:
            raise LocalStateError(f"{run.id} has no dataset", "`ftpipe train` with the data starts anew")
        validation = self._upload_one(run.validation) if run.validation else None
        file = self._upload_one(run.dataset)
        update = {"state": RunState.UPLOADED, "file": file, "validation_file": validation}
        return self.registry.save_run(run.model_copy(update=update))

    def _upload_one(self, dataset: Dataset) -> UploadedFile:
        return UploadDataset(
            dataset,
            self.provider,
            self.registry,
            on_progress=lambda done, total: self.observer.on_progress("upload", done, total),
            sleep=self.sleep,
            clock=self.clock,
        ).run()

    def _create(self, run: Run) -> Run:
        self.observer.on_stage("create")
        spec = run.spec
        if run.file is None:
            raise LocalStateError(f"{run.id} has no uploaded file", "`ftpipe resume` uploads it")
        request = JobRequest(
            model=spec.model,
            training_file=run.file,
            validation_file=run.validation_file,
            method=spec.method or Method.SUPERVISED,
            hyperparameters=spec.hyperparameters,
            suffix=spec.suffix,
            seed=spec.seed,
            integrations=spec.integrations,
            metadata={**spec.metadata, RUN_KEY_NAME: run.id},
        )
        job = CreateJob(
            request,
            key=self.registry.operation_key(run, KIND),
            run_id=run.id,
            provider=self.provider,
            journal=self.registry.journal,
            estimated_cost=run.cost.expected if run.cost else None,
            on_status=self.observer.on_status,
            sleep=self.sleep,
            clock=self.clock,
        ).run()
        return self._save_job(run.model_copy(update={"state": RunState.CREATED, "error": ""}), job)

    def _until_finished(self, run: Run, timeout: float | None) -> Run:
        self.observer.on_stage("poll")
        if run.job is None:
            raise UsageError(f"{run.id} has no job yet", "`ftpipe resume` creates it")
        job = PollJob(
            run.job,
            self.provider,
            known_events={event.id for event in self.registry.events(run.job.id)},
            timeout=timeout,
            on_job=lambda seen: self._seen_if_new(run, seen),
            on_events=lambda events: self._save_events(run, events),
            on_status=self.observer.on_status,
            sleep=self.sleep,
        ).run()
        return self._save_job(run, job)

    def _finish(self, run: Run) -> Run:
        job = run.job
        if job is None:
            return run
        try:
            refuse_unless_succeeded(job)
        except JobFailedError as exc:
            self.registry.save_run(run.model_copy(update={"state": RunState.FAILED, "error": exc.message}))
            raise
        return register(
            job, run=run, provider=self.provider, registry=self.registry, metrics=self.registry.metrics(job.id)
        )

    def _seen_if_new(self, run: Run, job: Job) -> None:
        if job != self.registry.job(job.id):
            self.registry.save_job(job, run_id=run.id)
        self.observer.on_job(job)

    def _save_job(self, run: Run, job: Job) -> Run:
        self.registry.save_job(job, run_id=run.id)
        self.observer.on_job(job)
        return self.registry.save_run(run.model_copy(update={"job": job}))

    def _save_events(self, run: Run, events: list[Event]) -> None:
        if run.job is None:
            return
        self.registry.save_events(run.job, events)
        for event in events:
            self.observer.on_event(event)
        for metric in metrics_of(events):
            self.observer.on_metric(metric)
