"""``/models`` and ``/fine_tuning/model_limits``: list, retrieve and delete models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftpipe.server.clock import now
from ftpipe.server.model_resolver import ModelResolver
from ftpipe.server.protocol import ApiError, ApiRequest, model_not_found
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import CheckpointRow, JobRow, Transaction
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory

BASE_OWNER = "ftpipe"


class ModelsApi:
    """The handlers of ``/models`` and ``/fine_tuning/model_limits``.

    Args:
        data_dir: Folder of the adapters.
        models: Finds what serves a name.
        settings: The limits.
        routes: Names that are served by a model of another name.
    """

    def __init__(
        self, data_dir: DataDirectory, models: ModelResolver, settings: ServeSettings, routes: ModelRoutes
    ) -> None:
        self._data_dir = data_dir
        self._models = models
        self._settings = settings
        self._routes = routes

    def list(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Base models, the owner's tuned models, and the names that have a route; each name once."""
        tuned = [_serialize_tuned(job) for job in tx.jobs.models(request.owner)]
        names = (*self._models.base_names(), *self._routes.names(request.owner))
        others = [_serialize(name, 0, BASE_OWNER) for name in dict.fromkeys(names)]
        listed = {model["id"] for model in tuned}
        return {"object": "list", "data": [model for model in others if model["id"] not in listed] + tuned}

    def retrieve(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One model."""
        name = request.path_params["model"]
        if name in self._routes.names(request.owner):
            return _serialize(name, 0, BASE_OWNER)
        if self._models.resolve(tx, request.owner, name) is None:
            raise model_not_found(name)
        job = tx.jobs.by_model(name)
        if job is not None:
            return _serialize_tuned(job)
        checkpoint = tx.checkpoints.by_model(name)
        if checkpoint is not None:
            return _serialize(name, checkpoint.created_at, f"org-{request.owner}")
        return _serialize(name, 0, BASE_OWNER)

    def delete(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Delete a tuned model with its checkpoints, or one checkpoint; base models cannot be deleted."""
        name = request.path_params["model"]
        job = tx.jobs.by_model(name)
        checkpoint = tx.checkpoints.by_model(name)
        if job is not None and job.owner == request.owner:
            self._delete_model(tx, job)
        elif checkpoint is not None and tx.jobs.get(checkpoint.job_id, request.owner) is not None:
            self._delete_checkpoint(tx, checkpoint)
        elif name in self._routes.names(request.owner):
            message = f"The model '{name}' is served through a route; only the owner of the server can remove it."
            raise ApiError(403, message, "model_not_deletable", "model")
        elif not name.startswith("ft:") and self._models.resolve(tx, request.owner, name) is not None:
            message = f"The model '{name}' is a base model and cannot be deleted."
            raise ApiError(403, message, "model_not_deletable", "model")
        else:
            raise model_not_found(name)
        return {"id": name, "object": "model", "deleted": True}

    def limits(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Limits by model, in the format that a client of OpenAI's route expects.

        Source: second-hand, one client's types; the route is not in the API description, 2026-08-21.
        """
        limits = {
            "max_total_jobs": self._settings.max_open_jobs,
            "max_concurrent_jobs": self._settings.max_jobs,
            "active_jobs": tx.jobs.count_open(request.owner),
        }
        return dict.fromkeys(self._models.base_names(), limits)

    def _delete_model(self, tx: Transaction, job: JobRow) -> None:
        tx.jobs.update(job.id, deleted=True)
        for checkpoint in tx.checkpoints.for_job(job.id):
            tx.checkpoints.remove(checkpoint.id)
        folder = self._data_dir.job(job.id).checkpoints_dir
        delete_after_commit(tx, self._data_dir, folder)

    def _delete_checkpoint(self, tx: Transaction, checkpoint: CheckpointRow) -> None:
        tx.checkpoints.remove(checkpoint.id)
        job = tx.jobs.get(checkpoint.job_id)
        if job is None or job.deleted or job.final_step != checkpoint.step:
            folder = self._data_dir.job(checkpoint.job_id).checkpoint_dir(checkpoint.step)
            delete_after_commit(tx, self._data_dir, folder)


def _serialize_tuned(job: JobRow) -> dict[str, Any]:
    return _serialize(job.model_name, job.finished_at or now(), f"org-{job.owner}")


def _serialize(name: str, created: int, owned_by: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owned_by}
