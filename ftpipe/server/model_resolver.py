"""Find the base model and the adapter that serve a model name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ftpipe.catalog.base_models import is_hosted_base
from ftpipe.server.storage import JobRow, Transaction
from ftpipe.server.storage.data_dir import DataDirectory

LISTED_OPENAI_MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo")
"""OpenAI names that ``/models`` lists; names with a date and others of theirs are served too."""
_NOT_IN_SUFFIX = re.compile(r"[^a-z0-9_-]+")


class BaseModels:
    """The base models of this machine; nothing is loaded.

    Args:
        models_dir: Folder of the base models.
        substitutes: Serve OpenAI's names by the default base model.
    """

    def __init__(self, models_dir: Path, *, substitutes: bool) -> None:
        self._models_dir = models_dir
        self._substitutes = substitutes

    def is_known(self, name: str) -> bool:
        """True if there is a base model of this name on this machine; a path is never one."""
        from ftpipe.modeling import base_models

        try:
            return base_models.is_installed_base(name, self._models_dir)
        except OSError:
            # A name that the file system refuses, for example because it is too long.
            return False

    def substitute_for(self, name: str) -> str | None:
        """The base model that serves an OpenAI name, or ``None``."""
        from ftpipe.modeling import base_models

        return base_models.DEFAULT_BASE if self._substitutes and is_hosted_base(name) else None

    def names(self) -> tuple[str, ...]:
        """The names that a list should show."""
        from ftpipe.modeling import base_models

        installed = base_models.installed_bases(self._models_dir)
        return (*installed, *(LISTED_OPENAI_MODELS if self._substitutes else ()))


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What serves a model name."""

    base: str
    adapter: Path | None = None
    is_substitute: bool = False
    """True if another model serves an OpenAI name."""

    def name(self, requested: str) -> str:
        """The name in responses: that of the model that really serves it."""
        return self.base if self.is_substitute else requested


class ModelResolver:
    """The look-up that chat, jobs and row losses share.

    Args:
        data_dir: Folder of the adapters.
        base_models: What is known about base models.
    """

    def __init__(self, data_dir: DataDirectory, base_models: BaseModels) -> None:
        self._data_dir = data_dir
        self._base_models = base_models

    def base_names(self) -> tuple[str, ...]:
        """Names of base models, and of those that they substitute."""
        return self._base_models.names()

    def resolve(self, tx: Transaction, owner: str | None, name: str) -> ResolvedModel | None:
        """What serves ``name`` for this owner, or for any if ``owner`` is ``None``; ``None`` if nothing does."""
        if name.startswith("ft:"):
            return self._resolve_tuned(tx, owner, name)
        if self._base_models.is_known(name):
            return ResolvedModel(name)
        base = self._base_models.substitute_for(name)
        return None if base is None else ResolvedModel(base, is_substitute=True)

    def _resolve_tuned(self, tx: Transaction, owner: str | None, name: str) -> ResolvedModel | None:
        job, step = find_tuned(tx, name)
        if job is None or step is None:
            return None
        if owner is not None and job.owner != owner and tx.permissions.find(name, owner) is None:
            return None
        if job.upstream is not None:
            upstream_model = upstream_name(tx, name)
            return None if upstream_model is None else ResolvedModel(upstream_model)
        return ResolvedModel(job.base, self._data_dir.job(job.id).checkpoint_dir(step))


def find_tuned(tx: Transaction, name: str) -> tuple[JobRow | None, int | None]:
    """The job that made a tuned model or a checkpoint, and the step of its adapter."""
    job = tx.jobs.by_model(name)
    if job is not None:
        return job, job.final_step
    checkpoint = tx.checkpoints.by_model(name)
    return (None, None) if checkpoint is None else (tx.jobs.get(checkpoint.job_id), checkpoint.step)


def upstream_name(tx: Transaction, name: str) -> str | None:
    """The name that a tuned model or checkpoint has at the provider at which it was trained."""
    row = tx.jobs.by_model(name) or tx.checkpoints.by_model(name)
    return None if row is None else row.upstream_model


def tuned_model_name(base: str, suffix: str | None, job_id: str, *, organization: str = "local") -> str:
    """The name of a job's model: ``ft:<base>:<organization>:<suffix>:<8 characters>``."""
    base = base.replace("/", "--").replace("\\", "--").replace(":", "-")
    slug = _NOT_IN_SUFFIX.sub("-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:{organization}:{slug}:{job_id[-8:]}"


def checkpoint_name(model_name: str, step: int) -> str:
    """The model name of a checkpoint."""
    return f"{model_name}:ckpt-step-{step}"
