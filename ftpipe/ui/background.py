"""Commands of ftpipe that the pages start: processes of their own, which closing a page or the server does not end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json, write_json
from ftpipe.child_environment import child_environment, python_path

FOLDER = "ui/commands"
"""In the project's state folder: a record, the output and the messages of each command."""
MAX_SHOWN_BYTES = 64 * 1024
"""Bytes of the messages that are read, from their end."""
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
MAX_COMMANDS = 200
"""Commands whose files are kept; those of older ones are deleted."""
_ID = re.compile(r"cmd-[0-9a-f]{12}")
_PROGRESS = re.compile(r"([0-9][0-9,]*) of ([0-9][0-9,]*)")


@dataclass(frozen=True, kw_only=True)
class CommandState:
    """A command that was started."""

    id: str
    title: str
    """What it does, for people."""
    line: str
    """The same command, to copy into a terminal."""
    started_at: float
    """UTC Unix seconds."""
    is_running: bool
    document: Mapping[str, Any] | None
    """What it wrote under ``--json``; ``None`` while it runs, and if it was killed."""
    messages: tuple[str, ...]
    """The last lines of its stderr."""

    @property
    def error(self) -> tuple[str, str] | None:
        """Message and hint of the error with which it ended; ``None`` if it runs or has succeeded."""
        if self.is_running:
            return None
        if self.document is None:
            last = self.messages[-1] if self.messages else "it was ended before it wrote a result"
            return last, ""
        error = self.document.get("error")
        if not isinstance(error, dict):
            return None
        return str(error.get("message", "")), str(error.get("hint") or "")

    @property
    def progress(self) -> tuple[int, int] | None:
        """How much of how much is done, by its last message that says so."""
        for line in reversed(self.messages):
            if match := _PROGRESS.search(line):
                done, total = (int(number.replace(",", "")) for number in match.groups())
                return (done, total) if 0 < total >= done else None
        return None


class BackgroundCommands:
    """Starts commands and reads how they are doing, also those that an earlier server started.

    Args:
        folder: Working folder of the commands.
        state_dir: The project's state folder.
        options: Options that every command gets, for example the registry.
        program: The program and its first arguments.
    """

    def __init__(
        self,
        folder: Path,
        state_dir: Path,
        *,
        options: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, "-m", "ftpipe"),
        env: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._folder = folder
        self._files = state_dir / FOLDER
        self._options = tuple(options)
        self._program = tuple(program)
        self._env = env
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def line(self, arguments: Sequence[str]) -> str:
        """A command as it is typed into a terminal."""
        return shlex.join(["ftpipe", *arguments, *self._options])

    def start(self, arguments: Sequence[str], *, title: str) -> str:
        """Start ``ftpipe ARGUMENTS --json`` and return its id.

        Args:
            arguments: The command and its arguments; a value that a user gave follows its option or ``--``.
            title: What it does, for people.
        """
        command_id = f"cmd-{secrets.token_hex(6)}"
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [*self._program, arguments[0], "--json", *self._options, *arguments[1:]]
        with self._path(command_id, "out").open("xb") as out, self._path(command_id, "log").open("xb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=self._folder,
                env=child_environment({**self._env(), "PYTHONPATH": python_path(), "NO_COLOR": "1"}, downloads=True),
                start_new_session=True,
            )
        record = {"title": title, "line": self.line(arguments), "started_at": time.time(), "pid": child.pid}
        write_json(self._path(command_id, "json"), record, mode=0o600)
        with self._lock:
            self._children[command_id] = child
        self._delete_old()
        return command_id

    def find(self, command_id: str) -> CommandState | None:
        """The state of a command; ``None`` if there is none with this id."""
        if not _ID.fullmatch(command_id):
            return None
        record = read_json(self._path(command_id, "json"))
        return None if record is None else self._state(command_id, record)

    def recent(self, is_wanted: Callable[[Sequence[str]], bool], *, limit: int = 20) -> list[CommandState]:
        """The latest commands that are wanted, newest first; the outputs of others, which can be long, are not read.

        Args:
            is_wanted: Called with the words of a command.
            limit: Number of commands that are looked at.
        """
        records = ((name, read_json(self._path(name, "json"))) for name in self._ids()[:limit])
        return [
            self._state(name, record)
            for name, record in records
            if record is not None and is_wanted(shlex.split(str(record.get("line", ""))))
        ]

    def _state(self, command_id: str, record: Mapping[str, Any]) -> CommandState:
        is_running = self._is_running(command_id, record.get("pid"))
        return CommandState(
            id=command_id,
            title=str(record.get("title", "")),
            line=str(record.get("line", "")),
            started_at=float(record.get("started_at", 0)),
            is_running=is_running,
            document=None if is_running else _document(self._path(command_id, "out")),
            messages=_last_lines(self._path(command_id, "log")),
        )

    def stop(self, command_id: str) -> None:
        """Interrupt a command, as Ctrl-C does; what it has finished is kept."""
        with self._lock:
            child = self._children.get(command_id)
        if child is not None and child.poll() is None:
            import signal

            child.send_signal(signal.SIGINT)

    def _ids(self) -> list[str]:
        if not self._files.is_dir():
            return []
        paths = [path for path in self._files.glob("cmd-*.json") if _ID.fullmatch(path.stem)]
        return [path.stem for path in sorted(paths, key=_modified, reverse=True)]

    def _path(self, command_id: str, kind: str) -> Path:
        return self._files / f"{command_id}.{kind}"

    def _is_running(self, command_id: str, pid: object) -> bool:
        with self._lock:
            child = self._children.get(command_id)
        if child is not None:
            return child.poll() is None
        if not isinstance(pid, int):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return False  # the number belongs to a process of another user by now
        return _document(self._path(command_id, "out")) is None

    def _delete_old(self) -> None:
        for name in self._ids()[MAX_COMMANDS:]:
            for kind in ("json", "out", "log"):
                self._path(name, kind).unlink(missing_ok=True)


def _modified(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _document(path: Path) -> Mapping[str, Any] | None:
    """What a command has written; ``None`` if that is not a whole document."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_DOCUMENT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _last_lines(path: Path, limit: int = 100) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_SHOWN_BYTES))
            lines = file.read(MAX_SHOWN_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines[-limit:] if line.strip())
