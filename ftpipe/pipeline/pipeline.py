"""The pipeline: ``plan`` checks and counts, ``start`` saves a run, ``advance`` uploads, trains and registers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ftpipe.dataset.projection import FOLDER, project_dataset
from ftpipe.errors import FtpipeError, JobFailedError, LocalStateError, ProviderError, UsageError
from ftpipe.paths import state_dir
from ftpipe.pipeline.current_status import as_requested
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.preflight import Plan, make_plan, quote_blocker, with_local_base
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import PriceQuote
from ftpipe.records import Dataset, Event, Job, JobRequest, Method, Report, Run, RunSpec, RunState, UploadedFile
from ftpipe.records.idempotency_keys import run_key
from ftpipe.registry import Registry
from ftpipe.registry.jobs import metrics_of
from ftpipe.stages.create_job import KIND, CreateJob
from ftpipe.stages.poll import PollJob
from ftpipe.stages.register import refuse_unless_succeeded, register
from ftpipe.stages.upload import UploadDataset

if TYPE_CHECKING:
    from ftpipe.catalog.training_prices import PriceTable

RUN_ID_KEY = "ftpipe_run"
"""Metadata key of a job that carries the run's id."""


class Pipeline:
    """Runs the stages against one endpoint and one registry.

    Args:
        provider: The endpoint, from ``open_provider``.
        registry: Where runs, files, jobs and models are saved, from ``open_registry``.
        observer: Is called with what happens.
        sleep: Waits.
        clock: UTC Unix seconds.
        max_cost: What a job may cost at most by the endpoint's own estimate, in USD; ``None`` for what the plan said.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        registry: Registry,
        observer: PipelineObserver | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        max_cost: float | None = None,
    ) -> None:
        self.max_cost = max_cost
        self.provider = provider
        self.registry = registry
        self.observer = observer or PipelineObserver()
        self.sleep, self.clock = sleep, clock
        provider.on_retry(lambda text: self.observer.on_status(text))

    def plan(self, spec: RunSpec, *, max_cost: float | None = None, prices: PriceTable | None = None) -> Plan:
        """Validate the dataset, count its tokens, and check whether the run can start; nothing is sent.

        Args:
            spec: What is requested.
            max_cost: What the job may cost at most, in the currency of the estimate; ``None`` for no limit.
            prices: The price table; the default is the package's own.

        Raises:
            DatasetError: The file cannot be read as a dataset at all. Anything else is in the plan.
        """
        spec = with_local_base(spec, self.provider.profile)
        return self.plan_for(spec, self._validate_and_count(spec, prices), max_cost=max_cost)

    def plan_for(self, spec: RunSpec, report: Report, *, max_cost: float | None = None) -> Plan:
        """The plan for a dataset that was validated and counted before."""
        today = datetime.fromtimestamp(self.clock(), UTC).date()
        return make_plan(spec, report, profile=self.provider.profile, today=today, max_cost=max_cost)

    def start(self, plan: Plan, *, force_new: bool = False) -> Run:
        """Save a run; the same data and parameters at the same endpoint are the same run.

        Args:
            plan: From ``plan``.
            force_new: Create a new job even if the same data and parameters have one.

        Raises:
            DatasetError: The endpoint would refuse the dataset.
            CostLimitError: The estimate is over the limit, or the price is unknown.
            UsageError: The endpoint does not support what is requested.
            TrainingNotAvailableError: The endpoint accepts no new jobs any more.
            NotFoundError: The endpoint has no such base model.
        """
        plan.raise_blocker()
        spec, report = plan.spec, plan.report
        validation_sha256 = report.validation.sha256 if report.validation else None
        key = run_key(
            spec,
            endpoint=self.provider.endpoint,
            dataset_sha256=report.dataset.sha256,
            validation_sha256=validation_sha256,
        )
        earlier = self.registry.runs.with_key(key)
        ordinal = 0
        if earlier:
            ordinal, last = earlier[-1]
            if not force_new and last.state not in (RunState.FAILED, RunState.DELETED):
                return self._resume_existing(last, spec, report)
            ordinal += 1
        self.provider.models.require_base(spec.model)
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
        return self.registry.runs.start(run, key=key, ordinal=ordinal)

    def advance(self, run: Run, *, wait: bool = True, timeout: float | None = None) -> Run:
        """Upload, create, poll and register, continuing after the last step that was saved.

        Args:
            run: From ``start`` or the registry.
            wait: Whether to wait for the end of the job; False returns as soon as the job exists.
            timeout: Seconds to wait at most, for lists of the endpoint, too; ``None`` waits until the end.

        Raises:
            JobFailedError: The job ended without a model.
            StillRunningError: The time is up; the job continues.
            OutcomeUnknownError: The paid call may have been executed.
            FtpipeError: Anything else, with a hint; calling ``advance`` again continues after the last saved step.
        """
        if run.state == RunState.REGISTERED:
            return run
        with self.provider.in_run(timeout):
            run = self._until_created(run)
            if not wait:
                return run
            run = self._until_finished(run, timeout)
            self.observer.on_stage("register")
            return self._finish(run)

    def resume(self, run_id: str | None = None, *, wait: bool = True, timeout: float | None = None) -> Run:
        """Continue a run after any interruption.

        Args:
            run_id: Id of a run or of its job; ``None`` takes the latest run.
            wait: As for ``advance``.
            timeout: As for ``advance``.

        Raises:
            UsageError: There is no such run.
        """
        run = self.registry.runs.find(run_id) if run_id else self.registry.runs.latest()
        if run is None:
            missing = f"no run {run_id!r}" if run_id else "no run yet"
            raise UsageError(f"there is {missing} in {self.registry.location}", "`ftpipe train` starts one")
        return self.advance(run, wait=wait, timeout=timeout)

    def refresh(self, run: Run) -> Run:
        """Read the run's job once; if it has succeeded, its model is registered."""
        if run.job is None or run.state in (RunState.REGISTERED, RunState.FAILED):
            return run
        job = as_requested(run.job, self.provider.jobs.get(run.job.id))
        run = self._save_job(run, job)
        known = {event.id for event in self.registry.jobs.events(job.id)}
        self._save_events(run, self.provider.jobs.events(job.id, known=known))
        if not job.is_finished:
            return run
        try:
            return self._finish(run)
        except JobFailedError:
            return self.registry.runs.get(run.id)

    def _validate_and_count(self, spec: RunSpec, prices: PriceTable | None) -> Report:
        from ftpipe.stages.count import count
        from ftpipe.stages.validate import ScanObserver, validate

        observer, epochs = self.observer, spec.hyperparameters.n_epochs
        observer.on_stage("validate")
        report = validate(
            spec.data,
            target=self.provider.profile.target,
            method=spec.method,
            model=spec.model,
            validation=spec.validation,
            for_job=True,
            max_length=spec.hyperparameters.max_length,
            observer=ScanObserver(on_progress=lambda done, total: observer.on_progress("validate", done, total)),
        )
        observer.on_stage("count")
        return count(
            report,
            model=spec.model,
            epochs=None if epochs == "auto" else epochs,
            prices=prices,
            observer=ScanObserver(on_progress=lambda done, total: observer.on_progress("count", done, total)),
        )

    def _resume_existing(self, run: Run, spec: RunSpec, report: Report) -> Run:
        """The run that was started before; the data may be in another file now."""
        if run.job is not None or run.spec == spec:
            return run
        update = {"spec": spec, "dataset": report.dataset, "validation": report.validation}
        return self.registry.runs.save(run.model_copy(update=update))

    def _until_created(self, run: Run) -> Run:
        if run.job is not None:
            return run
        waiting = f"another ftpipe is starting {run.id}; waiting for it"
        with self.registry.lock(run.id, on_wait=lambda: self.observer.on_status(waiting)):
            run = self.registry.runs.get(run.id)
            if run.job is not None:
                return run
            try:
                if run.state == RunState.PREPARED:
                    self._check_can_create(run.spec)  # before anything is uploaded
                return self._create(self._upload(run))
            except FtpipeError as exc:
                self.registry.runs.save(self.registry.runs.get(run.id).model_copy(update={"error": exc.message}))
                raise

    def _check_can_create(self, spec: RunSpec) -> None:
        self.provider.jobs.check_can_create(spec.model, method=spec.method, hyperparameters=spec.hyperparameters)

    def _check_quote(self, request: JobRequest, run: Run) -> None:
        """Compare the endpoint's own estimate, if it makes one, with the plan and the limit."""
        profile = self.provider.profile
        try:
            quote = self.provider.jobs.quote(request)
        except ProviderError as exc:
            quote = PriceQuote(price=None, why=exc.message)
        if quote is None:
            return
        if quote.price is not None:
            self.observer.on_status(f"{profile.title or profile.name} estimates {quote.price:g} USD for this job")
        blocker = quote_blocker(quote, run.cost, profile=profile, max_cost=self.max_cost)
        if blocker is not None:
            raise blocker

    def _upload(self, run: Run) -> Run:
        self.observer.on_stage("upload")
        if run.dataset is None:
            raise LocalStateError(f"{run.id} has no dataset", "run `ftpipe train` with the dataset again")
        run_id = run.id if self.provider.profile.unique_files else ""
        validation = self._upload_one(run.validation, run_id) if run.validation else None
        file = self._upload_one(run.dataset, run_id)
        update = {"state": RunState.UPLOADED, "file": file, "validation_file": validation}
        return self.registry.runs.save(run.model_copy(update=update))

    def _upload_one(self, dataset: Dataset, run_id: str) -> UploadedFile:
        profile = self.provider.profile
        projection = project_dataset(dataset, profile.target, state_dir() / FOLDER)
        if projection.removed:
            self.observer.on_status(projection.sentence(profile.title or profile.name))
        return UploadDataset(
            projection.dataset,
            self.provider,
            self.registry,
            run_id=run_id,
            on_progress=lambda done, total: self.observer.on_progress("upload", done, total),
            sleep=self.sleep,
            clock=self.clock,
        ).run()

    def _create(self, run: Run) -> Run:
        self.observer.on_stage("create")
        spec = run.spec
        if run.file is None:
            raise LocalStateError(f"{run.id} has no uploaded file", "run `ftpipe resume` to upload it")
        request = JobRequest(
            model=spec.model,
            training_file=run.file,
            validation_file=run.validation_file,
            method=spec.method or Method.SUPERVISED,
            hyperparameters=spec.hyperparameters,
            suffix=spec.suffix,
            seed=spec.seed,
            integrations=spec.integrations,
            grader=spec.grader,
            metadata={**spec.metadata, RUN_ID_KEY: run.id},
            serve_as=spec.serve_as,
        )
        key = self.registry.runs.operation_key(run, KIND)
        if self.registry.journal.find(key) is None:  # otherwise the job may exist, and is looked for first
            self._check_quote(request, run)
        job = CreateJob(
            request,
            key=key,
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
            raise UsageError(f"{run.id} has no job yet", "run `ftpipe resume` to create it")
        job = PollJob(
            run.job,
            self.provider,
            known_events={event.id for event in self.registry.jobs.events(run.job.id)},
            timeout=timeout,
            on_job=lambda job: self._save_if_changed(run, job),
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
            self.registry.runs.save(run.model_copy(update={"state": RunState.FAILED, "error": exc.message}))
            raise
        return register(
            job, run=run, provider=self.provider, registry=self.registry, metrics=self.registry.jobs.metrics(job.id)
        )

    def _save_if_changed(self, run: Run, job: Job) -> None:
        if job != self.registry.jobs.get(job.id):
            self.registry.jobs.save(job, run_id=run.id)
        self.observer.on_job(job)

    def _save_job(self, run: Run, job: Job) -> Run:
        self.registry.jobs.save(job, run_id=run.id)
        self.observer.on_job(job)
        return self.registry.runs.save(run.model_copy(update={"job": job}))

    def _save_events(self, run: Run, events: list[Event]) -> None:
        if run.job is None:
            return
        self.registry.jobs.save_events(run.job, events)
        for event in events:
            self.observer.on_event(event)
        for metric in metrics_of(events):
            self.observer.on_metric(metric)
