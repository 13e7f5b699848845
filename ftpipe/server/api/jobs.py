"""``/fine_tuning/jobs``: create, list, retrieve, cancel, pause and resume jobs; their events and checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from shutil import rmtree
from typing import Any

from ftpipe.atomic_files import link_or_copy
from ftpipe.catalog.base_models import is_hosted_base
from ftpipe.grading.graders import models_of
from ftpipe.records.job import METHODS_OF, PAUSE_REQUESTED, TERMINAL_STATUSES
from ftpipe.server.api.graders import grader_from_request
from ftpipe.server.api.schemas import CreateJob, Hyperparameters, validate_body
from ftpipe.server.api.serializers import serialize_checkpoint, serialize_event, serialize_job
from ftpipe.server.clock import now
from ftpipe.server.grader_models import GraderModels
from ftpipe.server.model_resolver import ModelResolver, ResolvedModel, tuned_model_name
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    bad_request,
    int_query_param,
    metadata_filter,
    missing_parameter,
    new_id,
    printable,
)
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import FileRow, JobRow, Transaction
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.job_manifest import write_manifest
from ftpipe.suggestions import join_or, nearest_name, nearest_names
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import GRADER_PARAM

MAX_LIMIT = 1000
METHODS = ("supervised", "dpo", "reinforcement")
MAX_LISTED_BASES = 10
MAX_NAMED_HYPERPARAMETERS = 10


class JobsApi:
    """The handlers of ``/fine_tuning/jobs``.

    Args:
        data_dir: Folder of the job directories.
        models: Finds the model to train.
        grader_models: The models that graders can ask.
        settings: Limits.
        wake: Called after a change that the supervisor must act on.
    """

    def __init__(
        self,
        data_dir: DataDirectory,
        models: ModelResolver,
        grader_models: GraderModels,
        settings: ServeSettings,
        wake: Callable[[], None],
    ) -> None:
        self._data_dir = data_dir
        self._models = models
        self._grader_models = grader_models
        self._settings = settings
        self._wake = wake

    def create(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Create a job; its files are validated before it is queued."""
        body = validate_body(CreateJob, request.body)
        method, hyperparameters = _method_of(body)
        grader, asked_models = self._grader_of(request.owner, body)
        model = self._trainable(tx, request.owner, body.model)
        training = _require_training_file(tx, request.owner, body.training_file, "training_file")
        validation = None
        if body.validation_file is not None:
            validation = _require_training_file(tx, request.owner, body.validation_file, "validation_file")
        if tx.jobs.count_open(request.owner) >= self._settings.max_open_jobs:
            message = (
                f"You have {self._settings.max_open_jobs} jobs that have not ended; wait for one to end, or cancel one."
            )
            raise ApiError(429, message, "rate_limit_exceeded")
        row = _new_row(request.owner, body, model, method, hyperparameters, upstream=self._settings.upstream)
        row.grader = grader
        self._link_files(row, training, validation, model.adapter)
        tx.jobs.add(row)
        tx.events.append_message(row.id, f"Created fine-tuning job: {row.id}")
        if model.is_substitute:
            message = f"{printable(body.model)} is not available here: {model.base} is trained in its place"
            tx.events.append_message(row.id, message, level="warn")
        for name in asked_models:
            judge = self._models.resolve(tx, request.owner, name)
            if judge is not None and judge.is_substitute:
                message = f"{printable(name)} is not available here: {judge.base} scores the answers in its place"
                tx.events.append_message(row.id, message, level="warn")
        for name in _unknown_hyperparameters(hyperparameters):
            tx.events.append_message(row.id, f"Unknown hyperparameter, not used: {name}", level="warn")
        if body.integrations:
            tx.events.append_message(
                row.id, "Integrations are stored but not run here; read the metrics from the events", level="warn"
            )
        tx.after_commit.append(self._wake)
        return serialize_job(row)

    def _grader_of(self, owner: str, body: CreateJob) -> tuple[dict[str, Any] | None, list[str]]:
        """The grader of reinforcement, and the models that it asks; another host may have graders of its own."""
        if body.method is None or body.method.type != "reinforcement":
            return None, []
        block = body.method.reinforcement
        if block is None:
            raise missing_parameter(GRADER_PARAM)
        if block.response_format is not None:
            message = "A response format is not available for this model; let the grader score the form of answers."
            raise bad_request(message, "method.reinforcement.response_format", "unsupported_parameter")
        if self._settings.upstream is not None:
            return block.grader, []
        grader = grader_from_request(
            block.grader, owner, self._grader_models, GRADER_PARAM, allow_python=self._settings.allow_python_graders
        )
        return block.grader, models_of(grader)

    def _trainable(self, tx: Transaction, owner: str, name: str) -> ResolvedModel:
        model = self._models.resolve(tx, owner, name)
        if model is None:
            raise self._not_trainable(name)
        return model

    def _not_trainable(self, name: str) -> ApiError:
        if is_hosted_base(name):
            message = f"The model '{name}' is not available for fine-tuning here."
            return bad_request(message, "model", "model_not_available")
        known = self._models.base_names()
        similar = nearest_names(name, known)
        hint = f"did you mean {join_or(similar)}" if similar else f"known are {', '.join(known[:MAX_LISTED_BASES])}"
        message = f"The model '{printable(name)}' does not exist; {hint}. `ftpipe models bases` lists all."
        return bad_request(message, "model", "model_not_found")

    def _link_files(self, row: JobRow, training: FileRow, validation: FileRow | None, adapter: Path | None) -> None:
        """Link the files into the job directory, so that the job keeps them when they are deleted."""
        directory = self._data_dir.job(row.id)
        directory.path.mkdir(mode=0o700)
        try:
            link_or_copy(self._data_dir.file(training.id), directory.training_file)
            if validation is not None:
                link_or_copy(self._data_dir.file(validation.id), directory.validation_file)
            if adapter is not None:
                directory.initial_adapter.mkdir(mode=0o700)
                for file in adapter.iterdir():
                    link_or_copy(file, directory.initial_adapter / file.name)
            write_manifest(directory, row)
        except BaseException:
            rmtree(directory.path, ignore_errors=True)
            raise

    def list(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the owner's jobs, newest first."""
        metadata, without_metadata = metadata_filter(request)
        limit = int_query_param(request, "limit", 20, maximum=MAX_LIMIT)
        after = request.query_params.get("after")
        page = tx.jobs.page_of(
            request.owner, after=after, limit=limit, metadata=metadata, without_metadata=without_metadata
        )
        return {"object": "list", "data": [serialize_job(row) for row in page.rows], "has_more": page.has_more}

    def retrieve(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One job."""
        return serialize_job(self._find(request, tx))

    def cancel(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Cancel a job; a running trainer is stopped within seconds. Cancelling twice changes nothing."""
        job = self._find(request, tx)
        if job.status in ("succeeded", "failed"):
            raise _invalid_transition(job, "cancelled")
        if job.status != "cancelled":
            tx.jobs.update(job.id, status="cancelled", desired_state="cancel", finished_at=now(), estimated_finish=None)
            tx.events.append_message(job.id, "The job was cancelled")
            tx.after_commit.append(self._wake)
        return serialize_job(self._find(request, tx))

    def pause(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Pause a job; a running trainer saves its state at the next step and stops."""
        job = self._find(request, tx)
        if job.status in TERMINAL_STATUSES or job.upstream is not None:
            raise _invalid_transition(job, "paused")
        if job.status in ("validating_files", "queued"):
            tx.jobs.update(job.id, status="paused", desired_state="pause", pause_reason="requested")
            tx.events.append_message(job.id, "The job is paused")
        elif job.status == "running" and job.desired_state != "pause":
            tx.jobs.update(job.id, desired_state="pause", pause_reason="requested")
            tx.events.append_message(job.id, PAUSE_REQUESTED)
        tx.after_commit.append(self._wake)
        return serialize_job(self._find(request, tx))

    def resume(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Resume a paused job; one that is not paused stays as it is."""
        job = self._find(request, tx)
        if job.status in TERMINAL_STATUSES:
            raise _invalid_transition(job, "resumed")
        if job.status == "paused":
            status = "queued" if job.validated else "validating_files"
            tx.jobs.update(job.id, status=status, desired_state="run", pause_reason=None)
            tx.events.append_message(job.id, "The job is resumed")
        elif job.desired_state == "pause":
            tx.jobs.update(job.id, desired_state="run", pause_reason=None)
        tx.after_commit.append(self._wake)
        return serialize_job(self._find(request, tx))

    def delete(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Delete a job that has ended, with its events, metrics and checkpoints. Not part of the OpenAI API."""
        job = self._find(request, tx)
        if job.status not in TERMINAL_STATUSES or job.has_trainer:
            message = f"Job {job.id} has not ended; cancel it first."
            raise bad_request(message, None, "invalid_job_status")
        if job.fine_tuned_model is not None and not job.deleted:
            message = f"Job {job.id} has the model {job.fine_tuned_model}; delete the model first."
            raise bad_request(message, None, "job_has_model")
        if job.result_file is not None:
            tx.files.delete(job.result_file)
            delete_after_commit(tx, self._data_dir, self._data_dir.file(job.result_file))
        tx.jobs.delete(job.id)
        delete_after_commit(tx, self._data_dir, self._data_dir.job(job.id).path)
        return {"id": job.id, "object": "fine_tuning.job", "deleted": True}

    def events(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of a job's events, newest first."""
        job = self._find(request, tx)
        limit = int_query_param(request, "limit", 20, maximum=MAX_LIMIT)
        page = tx.events.page_of(job.id, after=request.query_params.get("after"), limit=limit)
        return {"object": "list", "data": [serialize_event(row) for row in page.rows], "has_more": page.has_more}

    def checkpoints(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of a job's checkpoints, highest step first."""
        job = self._find(request, tx)
        limit = int_query_param(request, "limit", 10, maximum=MAX_LIMIT)
        page = tx.checkpoints.page_of(job.id, after=request.query_params.get("after"), limit=limit)
        return {
            "object": "list",
            "data": [serialize_checkpoint(row) for row in page.rows],
            "first_id": page.rows[0].id if page.rows else None,
            "last_id": page.rows[-1].id if page.rows else None,
            "has_more": page.has_more,
        }

    @staticmethod
    def _find(request: ApiRequest, tx: Transaction) -> JobRow:
        job = tx.jobs.get(request.path_params["job_id"], request.owner)
        if job is None:
            message = f"Could not find fine tune: {printable(request.path_params['job_id'])}"
            raise ApiError(404, message, "fine_tune_not_found", "fine_tune_id")
        return job


def _method_of(body: CreateJob) -> tuple[str, Hyperparameters]:
    """The method, and the hyperparameters from its block or, if that has none, from the top level."""
    kind = "supervised" if body.method is None else body.method.type
    if kind not in METHODS:
        message = f"The method '{kind}' is not available for this model."
        raise bad_request(message, "method.type", "model_not_available")
    block = None if body.method is None else getattr(body.method, kind)
    own = None if block is None else block.hyperparameters
    chosen = own or body.hyperparameters or Hyperparameters()
    for name, methods in METHODS_OF.items():
        if getattr(chosen, name) is not None and kind not in methods:
            message = f"'{name}' is a hyperparameter of the method {' or '.join(methods)}."
            raise bad_request(message, f"method.{kind}.hyperparameters.{name}", "unknown_parameter")
    if chosen.learning_rate not in (None, "auto") and chosen.learning_rate_multiplier != "auto":
        message = "'learning_rate' replaces 'learning_rate_multiplier'; give only one of them."
        raise bad_request(message, f"method.{kind}.hyperparameters.learning_rate", "invalid_value")
    return kind, chosen


def _unknown_hyperparameters(chosen: Hyperparameters) -> list[str]:
    """Names that no trainer reads, each with the most similar one that it does."""
    known = [field.name for field in fields(ResolvedHyperparameters)]
    unknown = sorted(chosen.model_extra.keys() - known) if chosen.model_extra else []
    nearest = {name: nearest_name(name, known) for name in unknown[:MAX_NAMED_HYPERPARAMETERS]}
    return [printable(name) + (f"; did you mean {near}?" if near else "") for name, near in nearest.items()]


def _require_training_file(tx: Transaction, owner: str, file_id: str, param: str) -> FileRow:
    row = tx.files.get(owner, file_id, now=now())
    if row is None:
        message = f"File '{printable(file_id)}' does not exist."
        raise bad_request(message, param, "file_not_found")
    if row.purpose != "fine-tune":
        message = f"File '{row.id}' has the purpose '{row.purpose}'; it must be 'fine-tune'."
        raise bad_request(message, param, "invalid_file_purpose")
    return row


def _new_row(
    owner: str,
    body: CreateJob,
    model: ResolvedModel,
    method: str,
    chosen: Hyperparameters,
    *,
    upstream: str | None,
) -> JobRow:
    job_id = new_id("ftjob-")
    integrations = None
    if body.integrations is not None:
        integrations = [item.model_dump(exclude_none=True) for item in body.integrations]
    return JobRow(
        id=job_id,
        owner=owner,
        created_at=now(),
        model=model.name(body.model),
        base=model.base,
        model_name=tuned_model_name(body.serve_as or model.base, body.suffix, job_id, organization=upstream or "local"),
        method=method,
        training_file=body.training_file,
        validation_file=body.validation_file,
        suffix=body.suffix,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        requested_hyperparameters=chosen.model_dump(exclude_none=True),
        integrations=integrations,
        user_metadata=body.metadata,
        upstream=upstream,
        has_requested_seed=body.seed is not None,
    )


def _invalid_transition(job: JobRow, what: str) -> ApiError:
    message = f"Job {job.id} has {job.status} and cannot be {what}."
    if job.upstream is not None and job.status not in TERMINAL_STATUSES:
        message = f"Job {job.id} is trained at another host and cannot be {what}."
    if job.status == "cancelled":
        message = f"Job {job.id} was cancelled and cannot be {what}."
    return bad_request(message, None, "invalid_job_status")
