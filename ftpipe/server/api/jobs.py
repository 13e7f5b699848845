"""Fine-tuning jobs: create, list, retrieve, cancel, pause, resume, events, checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import link_or_copy
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.api.schemas import CreateJob, Hyperparameters, validate_body
from ftpipe.server.api.serializers import serialize_checkpoint, serialize_event, serialize_job
from ftpipe.server.clock import now
from ftpipe.server.model_resolver import ModelResolver, ResolvedModel, tuned_model_name
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    bad_request,
    int_query_param,
    metadata_filter,
    new_id,
    printable,
)
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import FileRow, JobRow, Transaction
from ftpipe.server.storage.data_dir import DataDirectory

MAX_LIMIT = 1000
METHODS = ("supervised", "dpo")


class JobsApi:
    """The handlers of ``/fine_tuning/jobs``.

    Args:
        data_dir: Where jobs' folders lie.
        models: Which models can be trained.
        settings: Limits.
        wake: Called after a change that the supervisor should look at.
    """

    def __init__(
        self, data_dir: DataDirectory, models: ModelResolver, settings: ServeSettings, wake: Callable[[], None]
    ) -> None:
        self._data_dir = data_dir
        self._models = models
        self._settings = settings
        self._wake = wake

    def create(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Put a job into the queue; its files are checked there."""
        asked = validate_body(CreateJob, call.body)
        method, hyperparameters = _method_of(asked)
        served = self._trainable(tx, call.owner, asked.model)
        training = _require_training_file(tx, call.owner, asked.training_file, "training_file")
        validation = None
        if asked.validation_file is not None:
            validation = _require_training_file(tx, call.owner, asked.validation_file, "validation_file")
        if tx.jobs.count_open(call.owner) >= self._settings.max_open_jobs:
            message = f"You have {self._settings.max_open_jobs} jobs that have not ended; wait for one, or cancel one."
            raise ApiError(429, message, "rate_limit_exceeded")
        row = _new_row(call.owner, asked, served, method, hyperparameters)
        self._link_files(row, training, validation, served.adapter)
        tx.jobs.add(row)
        tx.events.append_message(row.id, f"Created fine-tuning job: {row.id}")
        if served.is_substitute:
            tx.events.append_message(row.id, f"{printable(asked.model)} is served here by {served.base}", level="warn")
        if asked.integrations:
            tx.events.append_message(
                row.id, "Integrations are noted and not run here; read the metrics from the events", level="warn"
            )
        tx.after_commit.append(self._wake)
        return serialize_job(row)

    def _trainable(self, tx: Transaction, owner: str, model: str) -> ResolvedModel:
        served = self._models.resolve(tx, owner, model)
        if served is None:
            message = f"The model '{printable(model)}' is not available for fine-tuning here."
            raise bad_request(message, "model", "model_not_available")
        return served

    def _link_files(self, row: JobRow, training: FileRow, validation: FileRow | None, adapter: Path | None) -> None:
        """Give the job its own hold on its files, so that deleting them does not take them from it."""
        directory = self._data_dir.job(row.id)
        directory.path.mkdir(mode=0o700)
        link_or_copy(self._data_dir.file(training.id), directory.training_file)
        if validation is not None:
            link_or_copy(self._data_dir.file(validation.id), directory.validation_file)
        if adapter is not None:
            directory.initial_adapter.mkdir(mode=0o700)
            for file in adapter.iterdir():
                link_or_copy(file, directory.initial_adapter / file.name)

    def list(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the owner's jobs, newest first."""
        metadata, without_metadata = metadata_filter(call)
        limit = int_query_param(call, "limit", 20, maximum=MAX_LIMIT)
        after = call.query.get("after")
        page = tx.jobs.page_of(
            call.owner, after=after, limit=limit, metadata=metadata, without_metadata=without_metadata
        )
        return {"object": "list", "data": [serialize_job(row) for row in page.rows], "has_more": page.has_more}

    def retrieve(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One job."""
        return serialize_job(self._find(call, tx))

    def cancel(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """End a job for good; a running trainer is stopped within seconds. Cancelling twice changes nothing."""
        job = self._find(call, tx)
        if job.status in ("succeeded", "failed"):
            raise _invalid_transition(job, "cancelled")
        if job.status != "cancelled":
            tx.jobs.update(job.id, status="cancelled", desired_state="cancel", finished_at=now(), estimated_finish=None)
            tx.events.append_message(job.id, "The job was cancelled")
            tx.after_commit.append(self._wake)
        return serialize_job(self._find(call, tx))

    def pause(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Hold a job; a running trainer stops at its next step and keeps what it has learnt."""
        job = self._find(call, tx)
        if job.status in TERMINAL_STATUSES:
            raise _invalid_transition(job, "paused")
        if job.status in ("validating_files", "queued"):
            tx.jobs.update(job.id, status="paused", desired_state="pause")
            tx.events.append_message(job.id, "The job is paused")
        elif job.status == "running" and job.desired_state != "pause":
            tx.jobs.update(job.id, desired_state="pause")
            tx.events.append_message(job.id, "The job will pause at its next step")
        tx.after_commit.append(self._wake)
        return serialize_job(self._find(call, tx))

    def resume(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Let a paused job go on; one that goes on already is left alone."""
        job = self._find(call, tx)
        if job.status in TERMINAL_STATUSES:
            raise _invalid_transition(job, "resumed")
        if job.status == "paused":
            status = "queued" if job.validated else "validating_files"
            tx.jobs.update(job.id, status=status, desired_state="run")
            tx.events.append_message(job.id, "The job goes on")
        elif job.desired_state == "pause":
            tx.jobs.update(job.id, desired_state="run")
        tx.after_commit.append(self._wake)
        return serialize_job(self._find(call, tx))

    def events(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of a job's events, newest first."""
        job = self._find(call, tx)
        limit = int_query_param(call, "limit", 20, maximum=MAX_LIMIT)
        page = tx.events.page_of(job.id, after=call.query.get("after"), limit=limit)
        return {"object": "list", "data": [serialize_event(row) for row in page.rows], "has_more": page.has_more}

    def checkpoints(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of a job's kept checkpoints, highest step first."""
        job = self._find(call, tx)
        limit = int_query_param(call, "limit", 10, maximum=MAX_LIMIT)
        page = tx.checkpoints.page_of(job.id, after=call.query.get("after"), limit=limit)
        return {
            "object": "list",
            "data": [serialize_checkpoint(row) for row in page.rows],
            "first_id": page.rows[0].id if page.rows else None,
            "last_id": page.rows[-1].id if page.rows else None,
            "has_more": page.has_more,
        }

    @staticmethod
    def _find(call: ApiRequest, tx: Transaction) -> JobRow:
        job = tx.jobs.get(call.path["job_id"], call.owner)
        if job is None:
            message = f"Could not find fine tune: {printable(call.path['job_id'])}"
            raise ApiError(404, message, "fine_tune_not_found", "fine_tune_id")
        return job


def _method_of(asked: CreateJob) -> tuple[str, Hyperparameters]:
    """The method, and the hyperparameters from its own block or, where that has none, from the top level."""
    kind = "supervised" if asked.method is None else asked.method.type
    if kind not in METHODS:
        message = f"The method '{kind}' is not available for this model."
        raise bad_request(message, "method.type", "model_not_available")
    block = None if asked.method is None else getattr(asked.method, kind)
    own = None if block is None else block.hyperparameters
    chosen = own or asked.hyperparameters or Hyperparameters()
    if chosen.beta is not None and kind != "dpo":
        message = "'beta' belongs to the method dpo."
        raise bad_request(message, f"method.{kind}.hyperparameters.beta", "unknown_parameter")
    return kind, chosen


def _require_training_file(tx: Transaction, owner: str, file_id: str, param: str) -> FileRow:
    row = tx.files.get(owner, file_id, now=now())
    if row is None:
        message = f"File '{printable(file_id)}' does not exist."
        raise bad_request(message, param, "file_not_found")
    if row.purpose != "fine-tune":
        message = f"File '{row.id}' has the purpose '{row.purpose}'; it must be 'fine-tune'."
        raise bad_request(message, param, "invalid_file_purpose")
    return row


def _new_row(owner: str, asked: CreateJob, served: ResolvedModel, method: str, chosen: Hyperparameters) -> JobRow:
    job_id = new_id("ftjob-")
    integrations = None
    if asked.integrations is not None:
        integrations = [item.model_dump(exclude_none=True) for item in asked.integrations]
    return JobRow(
        id=job_id,
        owner=owner,
        created_at=now(),
        model=asked.model,
        base=served.base,
        model_name=tuned_model_name(asked.model, asked.suffix, job_id),
        method=method,
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        suffix=asked.suffix,
        seed=secrets.randbelow(2**31) if asked.seed is None else asked.seed,
        requested_hyperparameters=chosen.model_dump(exclude_none=True),
        integrations=integrations,
        user_metadata=asked.metadata,
    )


def _invalid_transition(job: JobRow, what: str) -> ApiError:
    message = f"Job {job.id} has {job.status} and cannot be {what}."
    if job.status == "cancelled":
        message = f"Job {job.id} was cancelled and cannot be {what}."
    return bad_request(message, None, "invalid_job_status")
