"""The job directory: every file that the server and a trainer exchange, with its name and format, written and read.

| File | Written by | Content |
|---|---|---|
| ``job.json`` | server | what the database knows of the job, to rebuild its row |
| ``spec.json`` | server | the job as requested, written anew before each start of a trainer |
| ``training.jsonl``, ``validation.jsonl`` | server | the data |
| ``initial_adapter/`` | server | the adapter that training starts from, if the job tunes a tuned model further |
| ``trainer.lock``, ``trainer.json``, ``trainer.log`` | server | the trainer's process: lock, pid, output |
| ``files.json`` | validation process | what is wrong with the data; removed when the server has read it |
| ``bad_rows.json`` | validation process | lines that are left out, if the job allows it |
| ``plan.json`` | trainer | device and resolved hyperparameters of the first start |
| ``events.ndjson`` | trainer | events, one JSON object per line |
| ``progress.json`` | trainer | step, speed and estimated end |
| ``metrics.csv`` | trainer | losses and accuracies of every step |
| ``checkpoints/step-N/`` | trainer | an adapter, and ``manifest.json`` with the SHA-256 of its files |
| ``resume/state.safetensors`` | trainer | what a killed or paused run needs to resume |
| ``result.json`` | trainer | how the job ended; its last file |

Events are appended and synced line by line. Every other file is replaced in one step, so neither a reader nor a
restarted trainer sees half of it. Readers accept anything: a kill can leave a torn line, and an operator can edit.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, read_json, write_json
from ftpipe.errors import LocalStateError
from ftpipe.file_hash import sha256_of_file
from ftpipe.modeling.device import DeviceConfig
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS, METHODS_OF, TrainingMetrics
from ftpipe.training.hyperparameters import ResolvedHyperparameters

log = logging.getLogger("ftpipe.training")

MAX_EVENT_BYTES_PER_READ = 4 * 1024 * 1024
MAX_MESSAGE_LENGTH = 4000
GRADER_PARAM = "method.reinforcement.grader"
"""Where a request for a job has its grader."""
OUT_OF_MEMORY_EXIT_CODE = 71
"""Exit code of a trainer that could not allocate memory."""
EVENT_LEVELS = ("info", "warn", "error")
API_HYPERPARAMETERS = tuple(
    dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier", *METHODS_OF, *EXTENDED_HYPERPARAMETERS))
)
"""Resolved hyperparameters that the API shows."""
_CHECKPOINT_NAME = re.compile(r"step-(\d{1,12})")


@dataclass(frozen=True)
class WorkerConfig:
    """Which processes compute a job.

    Attributes:
        engine: ``process`` for this machine, ``ray`` for a cluster.
        workers: How many; 0 for one per GPU, or on a cluster without GPUs one per machine.
        address: Address of the cluster; ``None`` for the one that this machine belongs to.
        strategy: ``ddp`` if each process has the whole base, ``fsdp`` if they share it, ``auto`` by its size.
    """

    engine: str = "process"
    workers: int = 0
    address: str | None = None
    strategy: str = "auto"


@dataclass(frozen=True)
class JobSpec:
    """A job as requested: ``spec.json``.

    Attributes:
        initial_adapter: Directory of the adapter that training starts from; ``None`` for a new one.
        keep_checkpoints: How many checkpoints the trainer keeps, the newest.
        grader: Scores the answers in reinforcement, in OpenAI's JSON; ``None`` for other methods.
        allow_python_graders: Whether the server lets a grader run code.
    """

    job_id: str
    method: str
    base_model: str
    training_file: Path
    validation_file: Path | None
    hyperparameters: Mapping[str, Any]
    seed: int
    model_name: str
    models_dir: Path
    keep_checkpoints: int
    initial_adapter: Path | None = None
    worker_config: WorkerConfig = WorkerConfig()
    grader: dict[str, Any] | None = None
    allow_python_graders: bool = False

    def as_json(self) -> dict[str, Any]:
        """All fields, for ``spec.json``."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobSpec:
        """The spec that ``as_json`` wrote."""
        validation_file, initial_adapter = data.get("validation_file"), data.get("initial_adapter")
        return cls(
            job_id=str(data["job_id"]),
            method=str(data["method"]),
            base_model=str(data["base_model"]),
            training_file=Path(data["training_file"]),
            validation_file=Path(validation_file) if validation_file else None,
            hyperparameters=dict(data.get("hyperparameters") or {}),
            seed=int(data.get("seed") or 0),
            model_name=str(data.get("model_name", "")),
            models_dir=Path(data["models_dir"]),
            keep_checkpoints=max(1, int(data["keep_checkpoints"])),
            initial_adapter=Path(initial_adapter) if initial_adapter else None,
            worker_config=WorkerConfig(**(data.get("worker_config") or {})),
            grader=dict(data["grader"]) if data.get("grader") else None,
            allow_python_graders=data.get("allow_python_graders") is True,
        )


@dataclass(frozen=True)
class TrainingPlan:
    """Device and resolved hyperparameters of a job's first start, which later starts use again: ``plan.json``."""

    device_config: DeviceConfig
    hyperparameters: ResolvedHyperparameters


@dataclass(frozen=True, slots=True)
class TrainerEvent:
    """One line of ``events.ndjson``."""

    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


@dataclass
class Progress:
    """How far a job is: ``progress.json``; times in Unix seconds."""

    status: str = "running"
    """``running`` or ``paused``."""
    step: int = 0
    total_steps: int = 0
    trained_tokens: int = 0
    estimated_finish: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None  # of the trainer's process, or of what was allocated on a GPU


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended: ``result.json``."""

    succeeded: bool
    error: dict[str, Any] | None
    trained_tokens: int | None
    final_step: int | None
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint."""

    step: int
    metrics: dict[str, float]


class JobDirectory:
    """Reads and writes one job's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_file = path / "job.json"
        self.spec_file = path / "spec.json"
        self.training_file = path / "training.jsonl"
        self.validation_file = path / "validation.jsonl"
        self.initial_adapter = path / "initial_adapter"
        self.lock_file = path / "trainer.lock"
        self.process_file = path / "trainer.json"
        self.log_file = path / "trainer.log"
        self.bad_rows_file = path / "bad_rows.json"
        self.plan_file = path / "plan.json"
        self.events_file = path / "events.ndjson"
        self.progress_file = path / "progress.json"
        self.metrics_file = path / "metrics.csv"
        self.checkpoints_dir = path / "checkpoints"
        self.state_file = path / "resume" / "state.safetensors"
        self.result_file = path / "result.json"
        self.rendezvous_dir = path / ".rendezvous"  # where the processes of one machine meet
        self.policy_dir = path / ".policy"  # the adapter that reinforcement samples with
        self.grader_dir = path / ".grader"  # the chats of a grader with models of the server

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> JobDirectory:
        """The directory of the job that wrote a checkpoint."""
        return cls(checkpoint.parent.parent)

    @classmethod
    def of_state(cls, state_file: Path) -> JobDirectory:
        """The directory of the job that resumes from a state file."""
        return cls(state_file.parent.parent)

    def checkpoint_dir(self, step: int) -> Path:
        """Directory of the checkpoint at ``step``."""
        return self.checkpoints_dir / f"step-{step}"

    # Spec and plan

    def write_spec(self, spec: JobSpec) -> None:
        """Replace ``spec.json``."""
        write_json(self.spec_file, spec.as_json(), mode=0o600)

    def read_spec(self) -> JobSpec:
        """The job's ``spec.json``.

        Raises:
            LocalStateError: It is missing or not what the server writes.
        """
        try:
            return JobSpec.from_json(json.loads(self.spec_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise LocalStateError(f"{self.path.name}/spec.json cannot be read: {exc}", "create the job again") from exc

    def write_plan(self, plan: TrainingPlan) -> None:
        """Replace ``plan.json``."""
        data = {"device_config": asdict(plan.device_config), "hyperparameters": plan.hyperparameters.as_json()}
        write_json(self.plan_file, data, indent=1)

    def read_plan(self) -> TrainingPlan | None:
        """The plan of the job's first start; ``None`` before it.

        Raises:
            LocalStateError: It is not what a trainer writes.
        """
        try:
            data = json.loads(self.plan_file.read_text(encoding="utf-8"))
            hyperparameters = ResolvedHyperparameters.from_json(data["hyperparameters"])
            return TrainingPlan(DeviceConfig(**data["device_config"]), hyperparameters)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise LocalStateError(f"{self.path.name}/plan.json cannot be read: {exc}", "create the job again") from exc

    # Events

    def append_event(
        self, message: str, *, level: str = "info", event_type: str = "message", data: Mapping[str, Any] | None = None
    ) -> None:
        """Append one event and sync it."""
        event = {
            "created_at": int(time.time()),
            "level": level,
            "type": event_type,
            "message": message,
            "data": dict(data or {}),
        }
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with self.events_file.open("ab") as file:
            # A kill can leave half a line; without a newline the new event would be lost with it.
            file.write(("\n" if self._has_torn_event() else "").encode() + line.encode())
            file.flush()
            os.fsync(file.fileno())

    def read_events(self, offset: int) -> tuple[list[TrainerEvent], int]:
        """The events of complete lines after byte ``offset``, and the offset behind them."""
        try:
            with self.events_file.open("rb") as file:
                file.seek(offset)
                content = file.read(MAX_EVENT_BYTES_PER_READ)
        except FileNotFoundError:
            return [], offset
        end = content.rfind(b"\n") + 1
        events = [_parse_event(line) for line in content[:end].splitlines() if line.strip()]
        return [event for event in events if event is not None], offset + end

    def reported_events(self) -> tuple[int, frozenset[str]]:
        """The last step whose metrics were reported, and the messages of all events so far."""
        step, offset = 0, 0
        messages: set[str] = set()
        while True:
            events, end = self.read_events(offset)
            if end == offset:
                return step, frozenset(messages)
            offset = end
            for event in events:
                messages.add(event.message)
                if event.type == "metrics":
                    step = max(step, _integer(event.data.get("step")) or 0)

    def _has_torn_event(self) -> bool:
        try:
            with self.events_file.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False

    # Progress, metrics and result

    def write_progress(self, progress: Progress) -> None:
        """Replace ``progress.json``."""
        write_json(self.progress_file, asdict(progress), indent=1)

    def read_progress(self) -> Progress:
        """The trainer's last progress; that of a new job if there is none."""
        data = read_json(self.progress_file) or {}
        resolved = data.get("hyperparameters")
        resolved = resolved if isinstance(resolved, dict) else {}
        return Progress(
            status="paused" if data.get("status") == "paused" else "running",
            step=_integer(data.get("step")) or 0,
            total_steps=_integer(data.get("total_steps")) or 0,
            trained_tokens=_integer(data.get("trained_tokens")) or 0,
            estimated_finish=_integer(data.get("estimated_finish")),
            hyperparameters={name: resolved[name] for name in API_HYPERPARAMETERS if resolved.get(name) is not None},
        )

    def write_result(
        self, status: str, *, trained_tokens: int, step: int, error: Mapping[str, Any] | None = None
    ) -> None:
        """Write ``result.json``, the last file of a job."""
        data = {"status": status, "error": error, "trained_tokens": trained_tokens, "final_step": step}
        write_json(self.result_file, {**data, "finished_at": int(time.time())}, indent=1)

    def read_result(self) -> JobResult | None:
        """How the job ended; ``None`` if it has not."""
        if (data := read_json(self.result_file)) is None:
            return None
        error = data.get("error")
        return JobResult(
            succeeded=data.get("status") == "succeeded",
            error=_parse_error(error) if isinstance(error, dict) else None,
            trained_tokens=_integer(data.get("trained_tokens")),
            final_step=_integer(data.get("final_step")),
            finished_at=_integer(data.get("finished_at")),
        )

    @contextmanager
    def new_checkpoint(self, metrics: TrainingMetrics) -> Iterator[Path]:
        """A directory to write an adapter into; on leaving, it becomes ``checkpoints/step-N`` in one step."""
        target = self.checkpoint_dir(metrics.step)
        self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self.checkpoints_dir, prefix=f".{target.name}-"))
        yield scratch
        files = {file.name: _file_facts(file) for file in sorted(scratch.iterdir())}
        manifest = {"step": metrics.step, "files": files, "metrics": metrics.model_dump(exclude_none=True)}
        write_json(scratch / "manifest.json", manifest, indent=1)
        for file in scratch.iterdir():
            fsync(file)
        fsync(scratch)
        if target.exists():
            # A trainer that was killed before it saved its state has written the same files at the same step.
            shutil.rmtree(scratch)
        else:
            scratch.rename(target)
        fsync(target.parent)

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, lowest step first."""
        found = []
        for directory in self.checkpoints_dir.glob("step-*"):
            name = _CHECKPOINT_NAME.fullmatch(directory.name)
            manifest = read_json(directory / "manifest.json") if name else None
            if name and manifest is not None:
                metrics = _finite(dict(manifest.get("metrics") or {}))
                measured = {key: value for key, value in metrics.items() if value is not None}
                found.append(Checkpoint(int(name[1]), measured))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def has_checkpoint(self, step: int) -> bool:
        """Whether the checkpoint at ``step`` is complete."""
        return (self.checkpoint_dir(step) / "manifest.json").is_file()

    def prune_checkpoints(self, keep: int) -> None:
        """Remove all but the newest ``keep`` checkpoints."""
        steps = sorted(self.checkpoints_dir.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        for directory in steps[:-keep]:
            shutil.rmtree(directory)

    def verify_checkpoints(self) -> Iterator[tuple[Path, str]]:
        """Every file of every checkpoint, with what is wrong with it; an empty text if it is as it was written."""
        for manifest in sorted(self.checkpoints_dir.glob("step-*/manifest.json")):
            files = (read_json(manifest) or {}).get("files")
            if not isinstance(files, dict):
                yield manifest, "cannot be read"
                continue
            for name, facts in files.items():
                path = manifest.parent / Path(name).name
                yield path, _file_problem(path, facts)

    def partial_files(self) -> Iterator[Path]:
        """What a killed trainer left half-written; some of it may not exist."""
        yield from (self.rendezvous_dir, self.policy_dir, self.grader_dir)
        yield from self.checkpoints_dir.glob(".step-*")
        for file in (self.plan_file, self.progress_file, self.metrics_file, self.state_file, self.result_file):
            yield from file.parent.glob(f".{file.name}.*")

    def unneeded_files(self) -> Iterator[Path]:
        """What an ended job no longer needs: its data, its resume state, and what kills left half-written."""
        yield from (*self.partial_files(), self.training_file, self.validation_file, *self.path.glob(".*.json.*"))
        yield from (self.state_file.parent, self.initial_adapter, self.bad_rows_file)
        yield from (path for path in self.checkpoints_dir.glob("*") if not (path / "manifest.json").is_file())

    def remove_partial_files(self) -> None:
        """Remove what a killed trainer left half-written."""
        _remove_all(list(self.partial_files()))

    def remove_inputs(self) -> None:
        """Remove what an ended job no longer needs."""
        _remove_all(list(self.unneeded_files()))


def _remove_all(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _parse_event(line: bytes) -> TrainerEvent | None:
    try:
        value = json.loads(line)
        return TrainerEvent(
            created_at=int(value["created_at"]),
            level=value.get("level") if value.get("level") in EVENT_LEVELS else "info",
            type="metrics" if value.get("type") == "metrics" else "message",
            message=str(value["message"])[:MAX_MESSAGE_LENGTH],
            data=_finite(dict(value.get("data") or {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # A kill can tear a line in the middle of the file, if the next trainer appends behind it.
        log.warning("skipped a line of a trainer's events that could not be read")
        return None


def _parse_error(error: dict[str, Any]) -> dict[str, Any]:
    return {
        "code": str(error.get("code") or "server_error"),
        "message": str(error.get("message") or "")[:MAX_MESSAGE_LENGTH],
        "param": error.get("param") if isinstance(error.get("param"), str) else None,
    }


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """The values without NaN and infinities, which JSON does not have."""
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}


def _file_facts(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}


def _file_problem(path: Path, facts: object) -> str:
    try:
        digest = sha256_of_file(path)
    except OSError:
        return "is missing"
    return "" if isinstance(facts, dict) and facts.get("sha256") == digest else "is not what the trainer wrote"
