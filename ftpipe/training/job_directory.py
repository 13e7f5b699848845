"""The job folder: what the server asks of a trainer and what the trainer answers, file by file.

Every file is either appended line by line and synced (``events.ndjson``), or replaced as a whole, so that a reader
and a restarted trainer never see half of anything. Folders are written aside, synced and renamed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, write_bytes, write_json
from ftpipe.errors import LocalStateError

CHECKPOINTS_KEPT = 3
"""Source: OpenAI's supervised fine-tuning guide, 2026-07-15: one checkpoint per epoch, the last three kept."""
_CSV_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


@dataclass(frozen=True)
class WorkerConfig:
    """Who shall compute a job.

    Attributes:
        engine: ``process`` for this machine, ``ray`` for a cluster.
        workers: How many; 0 for one per graphics card, or on a cluster without any one per machine.
        address: Where the cluster is; ``None`` for the one that this machine belongs to.
    """

    engine: str = "process"
    workers: int = 0
    address: str | None = None


@dataclass(frozen=True)
class JobSpec:
    """What a job was asked to do, as the server wrote it to ``spec.json``."""

    job_id: str
    method: str
    base_model: str
    training_file: Path
    validation_file: Path | None
    hyperparameters: Mapping[str, Any]
    seed: int
    model_name: str
    models_dir: Path
    initial_adapter: Path | None = None
    """Folder of the checkpoint that training starts from; ``None`` for the base alone."""
    worker_config: WorkerConfig = WorkerConfig()


@dataclass(frozen=True)
class StepMetrics:
    """Losses in nats per trained token and accuracies (0–1) at one step; ``None`` where not measured."""

    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None

    def measured(self) -> dict[str, float | int]:
        """The values that were measured, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Progress:
    """How far a job is, for ``progress.json``; times in Unix seconds."""

    status: str = "running"
    pid: int = field(default_factory=os.getpid)
    step: int = 0
    total_steps: int = 0
    trained_tokens: int = 0
    estimated_finish: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    tokens_per_second: float | None = None


class JobDirectory:
    """Reads and writes one job's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.ndjson"
        self.checkpoints = path / "checkpoints"
        self.resume = path / "resume" / "state.safetensors"
        self.metrics = path / "metrics.csv"
        self.result = path / "result.json"
        self.rendezvous_dir = path / ".new-rendezvous"
        """Where the processes of one machine meet; removed at a start like everything half-written."""

    def spec(self) -> JobSpec:
        """The job's ``spec.json``.

        Raises:
            LocalStateError: It is missing or not what the server writes.
        """
        try:
            raw = json.loads((self.path / "spec.json").read_text(encoding="utf-8"))
            valid = raw.get("validation_file")
            return JobSpec(
                job_id=str(raw["job_id"]),
                method=str(raw["method"]),
                base_model=str(raw["base_model"]),
                training_file=Path(raw["training_file"]),
                validation_file=Path(valid) if valid else None,
                hyperparameters=dict(raw.get("hyperparameters") or {}),
                seed=int(raw.get("seed") or 0),
                model_name=str(raw.get("model_name", "")),
                models_dir=Path(raw["models_dir"]),
                initial_adapter=Path(raw["initial_adapter"]) if raw.get("initial_adapter") else None,
                worker_config=WorkerConfig(**(raw.get("worker_config") or {})),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise LocalStateError(f"{self.path.name}/spec.json cannot be read: {exc}", "create the job again") from exc

    def clean(self) -> None:
        """Remove what a killed trainer left half-written."""
        for folder in (self.path, self.checkpoints, self.resume.parent):
            for left in folder.glob(".new-*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def append_event(
        self, message: str, *, level: str = "info", event_type: str = "message", data: Mapping[str, Any] | None = None
    ) -> None:
        """Append one event and sync it."""
        row = {
            "created_at": int(time.time()),
            "level": level,
            "type": event_type,
            "message": message,
            "data": dict(data or {}),
        }
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        torn = self.events.exists() and self.events.stat().st_size > 0 and not self._ends_with_newline()
        with self.events.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + line)
            file.flush()
            os.fsync(file.fileno())

    def last_reported(self) -> tuple[int, frozenset[str]]:
        """The last step whose metrics were told, and the messages of all events so far."""
        step, messages = 0, set()
        for row in self._events():
            messages.add(str(row.get("message", "")))
            if row.get("type") == "metrics":
                step = max(step, int(row.get("data", {}).get("step", 0)))
        return step, frozenset(messages)

    def write_progress(self, progress: Progress) -> None:
        """Replace ``progress.json``."""
        write_json(self.path / "progress.json", asdict(progress))

    def write_metrics(self, rows: list[StepMetrics]) -> None:
        """Replace ``metrics.csv``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_CSV_COLUMNS)
        for row in rows:
            known = row.measured()
            writer.writerow([known.get(name, "") for name in _CSV_COLUMNS.values()])
        write_bytes(self.metrics, text.getvalue().encode())

    def write_result(
        self, status: str, *, trained_tokens: int, step: int, error: Mapping[str, Any] | None = None
    ) -> None:
        """Write ``result.json``, the last file of a job."""
        row = {"status": status, "error": error, "trained_tokens": trained_tokens, "final_step": step}
        write_json(self.result, {**row, "finished_at": int(time.time())})

    @contextmanager
    def checkpoint(self, metrics: StepMetrics) -> Iterator[Path]:
        """A folder to write a checkpoint's files into; on leaving it appears as ``checkpoints/step-N``, whole."""
        self.checkpoints.mkdir(exist_ok=True)
        with self.atomic_directory(self.checkpoints / f"step-{metrics.step}") as scratch:
            yield scratch
            files = {file.name: _describe(file) for file in sorted(scratch.iterdir())}
            manifest = {"step": metrics.step, "files": files, "metrics": metrics.measured()}
            write_json(scratch / "manifest.json", manifest, indent=1)

    def prune(self) -> None:
        """Remove all checkpoints but the last ones."""
        steps = sorted(self.checkpoints.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))
        for folder in steps[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(folder)

    @contextmanager
    def atomic_directory(self, target: Path) -> Iterator[Path]:
        """Write a folder aside, sync it and rename it to ``target``; one that is there already stays."""
        scratch = target.with_name(f".new-{target.name}")
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
        yield scratch
        for file in scratch.iterdir():
            fsync(file)
        fsync(scratch)
        if target.exists():
            # Told by a trainer that was killed before it could note that it had: the same steps, the same files.
            shutil.rmtree(scratch)
        else:
            scratch.rename(target)
        fsync(target.parent)

    def _ends_with_newline(self) -> bool:
        with self.events.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _events(self) -> Iterator[dict[str, Any]]:
        if not self.events.exists():
            return
        for line in self.events.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # torn by a kill; the event is told again
            if isinstance(row, dict):
                yield row


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        return {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "bytes": file.stat().st_size}
