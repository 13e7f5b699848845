"""Which model names are served, and by what: base models, their OpenAI names, tuned models and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol

from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiError, ApiRequest, not_found
from ftpipe.server.storage import CheckpointRow, JobRow, Transaction
from ftpipe.server.storage.data_dir import DataDirectory

LISTED_SUBSTITUTED_MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo")
"""OpenAI names that ``/models`` shows; dated ones and others of theirs are served too."""
_SUFFIX = re.compile(r"[^a-z0-9_-]+")


class BaseModelSource(Protocol):
    """What is known about base models without loading one."""

    def is_known(self, name: str) -> bool:
        """True where a base of this name can be had."""

    def substitute_for(self, name: str) -> str | None:
        """The base that serves an OpenAI name, or ``None``."""

    def names(self) -> tuple[str, ...]:
        """Bases, and names that others stand in for, that a list should show."""


class LocalBaseModels:
    """The bases of this machine.

    Args:
        models_dir: Where bases are kept.
        substitutes: Serve OpenAI's names too.
    """

    def __init__(self, models_dir: Path, *, substitutes: bool) -> None:
        self._models_dir = models_dir
        self._substitutes = substitutes

    def is_known(self, name: str) -> bool:
        """See ``BaseModelSource``."""
        from ftpipe.modeling import base_models

        try:
            return base_models.is_known_base(name, self._models_dir)
        except OSError:
            # A name that no file system takes, for example one that is too long.
            return False

    def substitute_for(self, name: str) -> str | None:
        """See ``BaseModelSource``."""
        from ftpipe.modeling import base_models

        return base_models.substitute_base_for(name) if self._substitutes else None

    def names(self) -> tuple[str, ...]:
        """See ``BaseModelSource``."""
        from ftpipe.modeling import base_models

        return (base_models.DEFAULT_BASE, *(LISTED_SUBSTITUTED_MODELS if self._substitutes else ()))


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What answers for a name."""

    base: str
    adapter: Path | None = None
    is_substitute: bool = False
    """True where another model answers under an OpenAI name."""


class ModelResolver:
    """The handlers of ``/models``, and the look-up that jobs and chat use.

    Args:
        data_dir: Where adapters lie.
        base_models: What is known about base models.
    """

    def __init__(self, data_dir: DataDirectory, base_models: BaseModelSource) -> None:
        self._data_dir = data_dir
        self._base_models = base_models

    def resolve(self, tx: Transaction, owner: str, name: str) -> ResolvedModel | None:
        """What answers for ``name`` when this owner asks, or ``None``."""
        if name.startswith("ft:"):
            return self._resolve_tuned(tx, owner, name)
        if self._base_models.is_known(name):
            return ResolvedModel(name)
        base = self._base_models.substitute_for(name)
        return None if base is None else ResolvedModel(base, is_substitute=True)

    def _resolve_tuned(self, tx: Transaction, owner: str, name: str) -> ResolvedModel | None:
        job = tx.jobs.by_model(name)
        step = None if job is None else job.final_step
        if job is None:
            checkpoint = tx.checkpoints.by_model(name)
            job = None if checkpoint is None else tx.jobs.get(checkpoint.job_id)
            step = None if checkpoint is None else checkpoint.step
        if job is None or step is None:
            return None
        if job.owner != owner and tx.permissions.find(name, owner) is None:
            return None
        return ResolvedModel(job.base, self._data_dir.job(job.id).checkpoint_dir(step))

    def base_names(self) -> tuple[str, ...]:
        """Names of bases, and of those that others stand in for."""
        return self._base_models.names()

    def list(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Bases, and the owner's tuned models."""
        bases = [_model_object(name, 0, "ftpipe") for name in self.base_names()]
        tuned = [_tuned_object(job) for job in tx.jobs.models(call.owner)]
        return {"object": "list", "data": bases + tuned}

    def retrieve(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One model."""
        name = call.path["model"]
        if self.resolve(tx, call.owner, name) is None:
            raise model_not_found(name)
        job = tx.jobs.by_model(name)
        if job is not None:
            return _tuned_object(job)
        checkpoint = tx.checkpoints.by_model(name)
        if checkpoint is not None:
            return _model_object(name, checkpoint.created_at, _owned_by(call.owner))
        return _model_object(name, 0, "ftpipe")

    def delete(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Delete a tuned model with its checkpoints, or one checkpoint; bases stay."""
        name = call.path["model"]
        job = tx.jobs.by_model(name)
        checkpoint = tx.checkpoints.by_model(name)
        if job is not None and job.owner == call.owner:
            self._delete_model(tx, job)
        elif checkpoint is not None and self._owns(tx, call.owner, checkpoint):
            self._delete_checkpoint(tx, checkpoint)
        elif not name.startswith("ft:") and self.resolve(tx, call.owner, name) is not None:
            message = f"The model '{name}' is a base model and cannot be deleted."
            raise ApiError(403, message, "model_not_deletable", "model")
        else:
            raise model_not_found(name)
        return {"id": name, "object": "model", "deleted": True}

    @staticmethod
    def _owns(tx: Transaction, owner: str, checkpoint: CheckpointRow) -> bool:
        return tx.jobs.get(checkpoint.job_id, owner) is not None

    def _delete_model(self, tx: Transaction, job: JobRow) -> None:
        tx.jobs.update(job.id, deleted=True)
        for checkpoint in tx.checkpoints.for_job(job.id):
            tx.checkpoints.remove(checkpoint.id)
        folder = self._data_dir.job(job.id).checkpoints_dir
        tx.after_commit.append(partial(rmtree, folder, ignore_errors=True))

    def _delete_checkpoint(self, tx: Transaction, checkpoint: CheckpointRow) -> None:
        tx.checkpoints.remove(checkpoint.id)
        job = tx.jobs.get(checkpoint.job_id)
        if job is None or job.deleted or job.final_step != checkpoint.step:
            folder = self._data_dir.job(checkpoint.job_id).checkpoint_dir(checkpoint.step)
            tx.after_commit.append(partial(rmtree, folder, ignore_errors=True))


def tuned_model_name(model: str, suffix: str | None, job_id: str) -> str:
    """The name of a job's model: ``ft:<base>:local:<suffix>:<8 characters>``."""
    if model.startswith("ft:"):
        # A model that is tuned further is named after its base, not after the model before it.
        model = model.split(":")[1]
    base = model.replace("/", "--").replace("\\", "--").replace(":", "-")
    slug = _SUFFIX.sub("-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:local:{slug}:{job_id[-8:]}"


def checkpoint_name(model_name: str, step: int) -> str:
    """The name that a checkpoint answers to."""
    return f"{model_name}:ckpt-step-{step}"


def model_not_found(name: str) -> ApiError:
    """The 404 for an unknown model, in the code that clients look for."""
    what = "model"
    return not_found(what, name, "model", "model_not_found")


def _owned_by(owner: str) -> str:
    return f"org-{owner}"


def _tuned_object(job: JobRow) -> dict[str, Any]:
    return _model_object(job.model_name, job.finished_at or now(), _owned_by(job.owner))


def _model_object(name: str, created: int, owned_by: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owned_by}
