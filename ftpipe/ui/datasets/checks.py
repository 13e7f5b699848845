"""Checks and fixes of datasets in the background: each in a process of its own, each only once for the same file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from ftpipe import __version__
from ftpipe.child_environment import child_environment, python_path
from ftpipe.config import Settings
from ftpipe.dataset.line_index import FileStamp
from ftpipe.errors import LocalStateError
from ftpipe.pipeline.preflight import local_base
from ftpipe.providers.profiles import Profile
from ftpipe.ui.datasets.check_result import CheckResult
from ftpipe.ui.datasets.worker import COMMAND

FOLDER = "ui"
"""Folder in the project's state folder for results; all of it can be made again."""
MAX_PROCESSES = 2
MAX_STORED_RESULTS = 24
"""Results on the disk; the oldest ones are deleted."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What to check a file for."""

    path: Path
    target: str
    model: str
    validation: Path | None = None
    method: str | None = None
    max_length: int | None = None
    for_job: bool = False
    checks: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The ``[checks]`` table, with the accepted findings as ``ignores``."""

    @classmethod
    def for_model(cls, path: Path, settings: Settings, profile: Profile, model: str = "", **more: Any) -> CheckRequest:
        """The check that ``ftpipe prepare`` makes for a provider and a base model."""
        config = settings.config
        requested = model or config.model or profile.default_model
        return cls(
            path=path,
            target=profile.target,
            model=local_base(requested, profile) or requested,
            method=config.method.value if config.method else None,
            max_length=config.hyperparameters.max_length,
            checks=config.check_values,
            **more,
        )

    def as_json(self) -> dict[str, Any]:
        """The request as the process reads it."""
        return {
            "path": str(self.path),
            "validation": str(self.validation) if self.validation else None,
            "target": self.target,
            "model": self.model,
            "method": self.method,
            "max_length": self.max_length,
            "for_job": self.for_job,
            "checks": json.loads(json.dumps(self.checks, default=str)),
        }

    def key(self, task: str) -> str:
        """Names the result: another content of the file, other rules or another version have another one.

        Raises:
            UsageError: The file does not exist any more.
        """
        stamps = [FileStamp.of(path) for path in (self.path, self.validation) if path]
        text = json.dumps([__version__, task, self.as_json(), stamps], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass
class TaskState:
    """How far a task is."""

    done: int = 0
    total: int = 0
    """Bytes; 0 if it has not begun."""
    result: dict[str, Any] | None = None
    error: str = ""
    hint: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self.result is not None or bool(self.error)


RunTask: TypeAlias = Callable[[TaskState, Mapping[str, Any]], dict[str, Any]]


class DatasetTasks:
    """Runs checks and fixes, and finds their results.

    Args:
        state_dir: The project's state folder.
        run: Runs a task and returns its last line of output; by default in a process of its own.
    """

    def __init__(self, state_dir: Path, *, run: RunTask | None = None) -> None:
        self._state_dir = state_dir
        self._run_task = run or self._communicate
        self._states: dict[str, TaskState] = {}
        self._processes: set[subprocess.Popen[str]] = set()
        self._slots = threading.BoundedSemaphore(MAX_PROCESSES)
        self._changed = threading.Condition()
        self._is_closed = False
        self._load = lru_cache(maxsize=8)(CheckResult)

    @property
    def folder(self) -> Path:
        """Where results are stored."""
        return self._state_dir / FOLDER

    def check(self, request: CheckRequest, *, wait_seconds: float = 0) -> CheckResult | TaskState:
        """The result of a check, or how far it is; it is started if nobody has started it.

        Args:
            request: What to check.
            wait_seconds: How long to wait for the result: a small file is checked before its page is sent.

        Raises:
            UsageError: The file does not exist any more.
            LocalStateError: The folder of the results cannot be written.
        """
        key = request.key("check")
        path = self.folder / "checks" / f"{key}.db"
        if not path.is_file():
            state = self._state(key, {"task": "check", "output": str(path), **request.as_json()}, path)
            current = self._wait(state, wait_seconds)
            if current.result is None:
                return current
            if not path.is_file():
                return TaskState()  # somebody has deleted it; the next call starts another check
        return self._load(path)

    def fix(self, request: CheckRequest, *, unsafe: bool, wait_seconds: float = 0) -> tuple[TaskState, Path]:
        """The state of a fix, and the file that it writes for preview, with the diff beside it; as ``check``."""
        key = request.key("fix-unsafe" if unsafe else "fix")
        path = self.folder / "fixes" / key / "fixed.jsonl"
        task = {"task": "fix", "unsafe": unsafe, "output": str(path), **request.as_json()}
        return self._wait(self._state(key, task, path), wait_seconds), path

    def forget_error(self, request: CheckRequest) -> None:
        """Let a check that failed be tried again."""
        with self._changed:
            if (state := self._states.get(key := request.key("check"))) is not None and state.error:
                del self._states[key]

    def close(self) -> None:
        """End the processes; what they have not finished is started again when it is needed."""
        with self._changed:
            self._is_closed = True
            processes = list(self._processes)
        for process in processes:
            process.terminate()

    def _state(self, key: str, task: Mapping[str, Any], output: Path) -> TaskState:
        """The state of a task, which is started if there is none, or if its result was deleted meanwhile."""
        with self._changed:
            state = self._states.get(key)
            if state is not None and (state.result is None or output.is_file()):
                return state
            self._make_room(output.parent)
            state = self._states[key] = TaskState()
        threading.Thread(target=self._run, args=(state, task), daemon=True, name=f"ui-{key}").start()
        return state

    def _make_room(self, folder: Path) -> None:
        """Make the folder of a result, and delete the oldest ones."""
        try:
            self._state_dir.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            _delete_oldest(folder if folder.name == "checks" else folder.parent)
        except OSError as exc:
            raise LocalStateError(f"{folder} cannot be written: {exc.strerror}", "check its permissions") from exc

    def _wait(self, state: TaskState, seconds: float) -> TaskState:
        """Wait for the end of a task; returns its state at one moment, because it may end while a page is made."""
        with self._changed:
            if seconds > 0:
                self._changed.wait_for(lambda: state.is_finished, seconds)
            return replace(state)

    def _run(self, state: TaskState, task: Mapping[str, Any]) -> None:
        with self._slots:
            answer: dict[str, Any] = {}
            if not self._is_closed:
                answer = self._run_task(state, task)
            with self._changed:
                if "result" in answer:
                    state.result = answer["result"]
                else:
                    error = answer.get("error", {})
                    state.error = error.get("message") or "the process that checks the dataset ended early"
                    state.hint = error.get("hint") or "load the page again to start it again"
                self._changed.notify_all()

    def _communicate(self, state: TaskState, task: Mapping[str, Any]) -> dict[str, Any]:
        """Run the process to its end; returns its last line."""
        environment = child_environment({"PYTHONPATH": python_path()})
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        ) as process:
            self._processes.add(process)
            try:
                return self._read(process, state, task)
            finally:
                self._processes.discard(process)

    def _read(self, process: subprocess.Popen[str], state: TaskState, task: Mapping[str, Any]) -> dict[str, Any]:
        last: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            if process.stdin and process.stdout:
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.close()
                for line in process.stdout:
                    last = json.loads(line)
                    state.done, state.total = last.get("done", state.done), last.get("total", state.total)
        return last


def _delete_oldest(folder: Path) -> None:
    """Make room for another result."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[: max(0, len(entries) - MAX_STORED_RESULTS + 1)]:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
