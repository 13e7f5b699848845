"""Estimate what a job of the embedded server needs, for ``plan``, ``train`` and the pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.atomic_files import read_json
from ftpipe.errors import InsufficientMemoryError
from ftpipe.formatting import format_bytes, sanitize_line
from ftpipe.paths import models_dir, server_dir
from ftpipe.records import Hyperparameters, Method, Report, RunSpec

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.modeling.base_facts import BaseFacts
    from ftpipe.modeling.machine import Machine
    from ftpipe.records.training_estimate import TrainingEstimate
    from ftpipe.training.estimate import JobData


def known_base(name: str) -> BaseFacts | None:
    """The dimensions of a base model that is on this machine or in the catalogue; ``None`` for any other one.

    Raises:
        NotFoundError: It is on this machine, and cannot be loaded.
    """
    from ftpipe.catalog.hub_models import hub_models
    from ftpipe.modeling.base_facts import BaseFacts
    from ftpipe.modeling.base_models import DEFAULT_BASE, DEFAULT_BASE_HUB_ID, check_folder, find_installed_folder

    if folder := find_installed_folder(name, models_dir()):
        return BaseFacts.read(check_folder(folder))
    hub_id = DEFAULT_BASE_HUB_ID if name == DEFAULT_BASE else name
    row = next((one for one in hub_models() if one.name == hub_id), None)
    return None if row is None else BaseFacts(row.shape, row.context, row.shape.parameters)


def requested_values(hyperparameters: Hyperparameters) -> dict[str, Any]:
    """Hyperparameters as the job's request has them: those that are set."""
    named = hyperparameters.model_dump(mode="json", exclude={"extra"}, exclude_none=True)
    return {**{name: value for name, value in named.items() if value != "auto"}, **hyperparameters.extra}


def estimate_job(
    base: str,
    facts: BaseFacts,
    hyperparameters: Hyperparameters,
    data: JobData,
    *,
    method: Method = Method.SUPERVISED,
    machine: Machine | None = None,
) -> TrainingEstimate:
    """What a job needs on a machine, or on this one, whose finished jobs say how fast it is.

    Raises:
        UsageError: A hyperparameter is out of range.
    """
    from ftpipe.modeling.machine import can_quantize, this_machine
    from ftpipe.training.estimate import estimate_training
    from ftpipe.training.measured_jobs import read_measured_jobs

    is_here = machine is None
    return estimate_training(
        base,
        facts,
        requested_values(hyperparameters),
        data,
        machine or this_machine(),
        method=method.value,
        jobs=read_measured_jobs(server_dir() / "jobs", models_dir()) if is_here else (),
        can_quantize=can_quantize() if is_here else True,
    )


def estimate_run(settings: Settings, spec: RunSpec, report: Report) -> TrainingEstimate | None:
    """What a run needs on this machine; ``None`` if it is trained elsewhere, or its base is not known yet."""
    from ftpipe.dataset.row_lengths import read_job_data
    from ftpipe.providers.address import configured_url
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(spec.provider, settings.config.providers)
    if profile.target != "local" or configured_url(profile, os.environ) or trains_elsewhere(server_dir()):
        return None
    facts = known_base(spec.model)
    if facts is None or report.tokens is None or not report.tokens.examples:
        return None
    data = read_job_data(report.dataset.path, spec.model, report.tokens, method=report.method)
    return estimate_job(spec.model, facts, spec.hyperparameters, data, method=report.method)


def trains_elsewhere(folder: Path) -> bool:
    """Whether the embedded server that was started last trains on a cluster."""
    return (read_json(folder / "server.json") or {}).get("engine") == "ray"


def require_memory(estimate: TrainingEstimate) -> None:
    """Refuse a job that does not fit.

    Raises:
        InsufficientMemoryError: It needs more memory than there is; the hint names what makes it fit.
    """
    if estimate.fits is not False or estimate.memory_bytes is None or estimate.available_bytes is None:
        return
    needed, available = format_bytes(estimate.memory_bytes), format_bytes(estimate.available_bytes)
    message = f"training {sanitize_line(estimate.base, 80)} needs {needed} of memory, and {available} can be used"
    if estimate.remedies:
        hint = f"add {estimate.remedies[0]}"
        if "--quantization" in estimate.remedies[0]:
            hint += "; quantization needs `pip install 'ftpipe[quantization]'`"
    else:
        hint = "choose a smaller base model; `ftpipe models bases` shows how much memory each needs"
    raise InsufficientMemoryError(message, hint)
