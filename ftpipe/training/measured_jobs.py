"""How fast the finished jobs of this machine were, which later estimates learn from, and how much memory they had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from ftpipe.atomic_files import read_json
from ftpipe.modeling.base_models import find_installed_folder
from ftpipe.modeling.model_shape import ModelShape

MAX_JOBS = 50
"""The newest jobs that are read."""
MIN_STEPS = 3
"""Jobs with fewer steps say little about speed: most of their time is that of the first step."""


@dataclass(frozen=True, slots=True)
class ComputeKind:
    """What the speed of a machine depends on, besides the base model."""

    device: str
    precision: str
    quantization: str
    gradient_checkpointing: bool


@dataclass(frozen=True, slots=True)
class MeasuredJob:
    """A job that has ended with a model."""

    base: str
    kind: ComputeKind
    targets: tuple[str, ...]
    tokens_per_second: float
    peak_memory_bytes: int | None
    shape: ModelShape | None


def read_measured_jobs(jobs_dir: Path, models_dir: Path) -> list[MeasuredJob]:
    """The jobs of an embedded server that have ended with a model, newest first; broken ones are left out.

    Args:
        jobs_dir: The folder of the job directories.
        models_dir: The folder of base models.
    """
    folders = sorted(jobs_dir.glob("ftjob-*"), key=_finished_at, reverse=True)[:MAX_JOBS]
    shape_of = cache(partial(_read_shape, models_dir))
    return [job for folder in folders if (job := _read(folder, shape_of)) is not None]


def _finished_at(folder: Path) -> float:
    try:
        return (folder / "result.json").stat().st_mtime
    except OSError:
        return 0.0


def _read_shape(models_dir: Path, base: str) -> ModelShape | None:
    folder = find_installed_folder(base, models_dir)
    return None if folder is None else ModelShape.from_config(read_json(folder / "config.json") or {})


def _read(folder: Path, shape_of: Callable[[str], ModelShape | None]) -> MeasuredJob | None:
    spec, plan, progress, result = (
        read_json(folder / f"{name}.json") or {} for name in ("spec", "plan", "progress", "result")
    )
    try:
        device, settings = plan["device_config"], plan["hyperparameters"]
        speed = float(progress.get("tokens_per_second") or 0)
        if spec.get("method") == "reinforcement":  # most of its time is not training
            return None
        if result.get("status") != "succeeded" or int(result.get("final_step") or 0) < MIN_STEPS or speed <= 0:
            return None
        base = str(spec["base_model"])
        kind = ComputeKind(
            str(device["device"]),
            str(settings["precision"]),
            str(settings["quantization"]),
            settings["gradient_checkpointing"] is True,
        )
        targets = tuple(map(str, settings["target_modules"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    peak = progress.get("peak_memory_bytes")
    return MeasuredJob(
        base=base,
        kind=kind,
        targets=targets,
        tokens_per_second=speed,
        peak_memory_bytes=peak if isinstance(peak, int) else None,
        shape=shape_of(base),
    )
