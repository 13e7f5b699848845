"""Reading what a trainer writes into its job's folder: events, progress, checkpoints, result."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.server.api.serializers import finite

log = logging.getLogger("ftpipe.server.jobs")

MAX_READ = 4 * 1024 * 1024
MAX_MESSAGE = 4000
LEVELS = ("info", "warn", "error")
_STEP = re.compile(r"step-(\d{1,12})")
_RESOLVED = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")


@dataclass(frozen=True, slots=True)
class TrainerEvent:
    """One event as the trainer wrote it."""

    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


def read_events(folder: Path, offset: int) -> tuple[list[TrainerEvent], int]:
    """Complete lines of the event file after ``offset``, and the offset behind them; a torn last line waits."""
    try:
        with (folder / "events.ndjson").open("rb") as handle:
            handle.seek(offset)
            piece = handle.read(MAX_READ)
    except FileNotFoundError:
        return [], offset
    end = piece.rfind(b"\n") + 1
    lines = [_line(raw) for raw in piece[:end].splitlines() if raw.strip()]
    return [line for line in lines if line is not None], offset + end


def _line(raw: bytes) -> TrainerEvent | None:
    try:
        value = json.loads(raw)
        return TrainerEvent(
            created_at=int(value["created_at"]),
            level=value.get("level") if value.get("level") in LEVELS else "info",
            type="metrics" if value.get("type") == "metrics" else "message",
            message=str(value["message"])[:MAX_MESSAGE],
            data=finite(dict(value.get("data") or {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # A kill can tear a line in the middle of the file, when the next trainer appends behind it.
        log.warning("an event line of a trainer could not be read")
        return None


@dataclass(frozen=True, slots=True)
class TrainerProgress:
    """How far a trainer has come."""

    step: int = 0
    paused: bool = False
    estimated_finish: int | None = None
    resolved: dict[str, Any] | None = None


def read_progress(folder: Path) -> TrainerProgress:
    """The trainer's last word about its progress."""
    value = read_json(folder / "progress.json") or {}
    resolved = value.get("hyperparameters")
    return TrainerProgress(
        step=_whole(value.get("step")) or 0,
        paused=value.get("status") == "paused",
        estimated_finish=_whole(value.get("estimated_finish")),
        resolved=_known(resolved) if isinstance(resolved, dict) else None,
    )


def _known(resolved: dict[str, Any]) -> dict[str, Any]:
    return {name: resolved[name] for name in _RESOLVED if resolved.get(name) is not None}


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def find_checkpoints(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of every complete checkpoint in the folder, lowest step first."""
    found = []
    for place in (folder / "checkpoints").glob("step-*"):
        name = _STEP.fullmatch(place.name)
        manifest = read_json(place / "manifest.json") if name else None
        if name and manifest is not None:
            metrics = finite(dict(manifest.get("metrics") or {}))
            found.append((int(name[1]), {key: value for key, value in metrics.items() if value is not None}))
    return sorted(found)


@dataclass(frozen=True, slots=True)
class TrainerResult:
    """How a job ended."""

    succeeded: bool
    error: dict[str, Any] | None
    trained_tokens: int | None
    final_step: int | None
    finished_at: int | None


def read_result(folder: Path) -> TrainerResult | None:
    """The trainer's result, or ``None`` while there is none."""
    value = read_json(folder / "result.json")
    if value is None:
        return None
    error = value.get("error") if isinstance(value.get("error"), dict) else None
    return TrainerResult(
        succeeded=value.get("status") == "succeeded",
        error=None if error is None else _three_fields(error),
        trained_tokens=_whole(value.get("trained_tokens")),
        final_step=_whole(value.get("final_step")),
        finished_at=_whole(value.get("finished_at")),
    )


def _three_fields(error: dict[str, Any]) -> dict[str, Any]:
    return {
        "code": str(error.get("code") or "server_error"),
        "message": str(error.get("message") or "")[:MAX_MESSAGE],
        "param": error.get("param") if isinstance(error.get("param"), str) else None,
    }
