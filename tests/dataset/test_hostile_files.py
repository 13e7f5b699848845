"""Commands that read data connect nowhere, start no program, and open no file that was not named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ftpipe
from tests.dataset.hostile_files import write_hostile_files

URL = "http://127.0.0.1:9"
GUARD = """
import json, os, sys
events = open(os.path.join(os.path.dirname(__file__), f"events-{os.getpid()}"), "a", buffering=1)
def write(event, *values):
    events.write(json.dumps([event, *values], default=repr) + "\\n")
def record(event, args):
    if event == "open":
        if isinstance(args[0], (str, bytes)):
            write(event, os.fsdecode(args[0]), os.getcwd(), args[1], args[2])
    elif event.startswith(("socket.", "urllib.", "ftplib.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")):
        write(event, *map(repr, args))
    elif event.startswith("test."):
        write(event, *args)
sys.addaudithook(record)
"""
"""``sitecustomize.py``: every interpreter with its folder in PYTHONPATH loads it, those of the worker pool, too."""
DRIVER = """
import json, sys
from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
for arguments in json.load(sys.stdin):
    sys.audit("test.start", json.dumps(arguments))
    sys.audit("test.end", execute(root, arguments, CliContext()))
"""
HARMLESS = ("socket.__new__",)
"""Events without which the standard library cannot be imported or used; they reach nothing."""


@dataclass
class Run:
    """What one command line did."""

    arguments: list[str]
    code: int | None = None
    opened: list[tuple[Path, bool]] = field(default_factory=list)
    """Path, and whether it was opened for writing."""
    others: list[list[Any]] = field(default_factory=list)
    """Connections and processes."""


def run_guarded(command_lines: Sequence[list[str]], work: Path) -> list[Run]:
    """Run command lines in one process under an audit hook."""
    guard = work.parent / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(command_lines), capture_output=True, text=True, timeout=300, check=False, cwd=work,
        env={"PATH": "/usr/bin:/bin", "HOME": str(work.parent / "home"), "FTPIPE_HOME": str(work.parent / "home"),
             "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(work.parent / "temporary"),
             "PYTHONPATH": os.pathsep.join((str(guard), *sys.path))},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    runs: list[Run] = []
    children: list[list[Any]] = []
    for path in sorted(guard.glob("events-*")):
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not any(event[0] == "test.start" for event in events):
            children += events
            continue
        for name, *values in events:
            if name == "test.start":
                runs.append(Run(json.loads(values[0])))
            elif name == "test.end":
                runs[-1].code = values[0]
            elif runs:
                add_event(runs[-1], name, values)
    if children:
        runs.append(Run(["children"], 0))
        for name, *values in children:
            add_event(runs[-1], name, values)
    return runs


def add_event(run: Run, name: str, values: list[Any]) -> None:
    if name == "open":
        path, folder, mode, flags = values
        writes = bool(mode and set(mode) & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))
        run.opened.append((Path(os.path.normpath(Path(folder) / path)), writes))
    elif name not in HARMLESS:
        run.others.append([name, *values])


PROGRAM = [
    *{Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)},
    *(Path(entry) for entry in sys.path if entry),
    Path(ftpipe.__file__).parent,
]
SYSTEM = [
    Path(name) for name in ("/proc", "/sys", "/dev/null", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo")
]


def is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)


COMMANDS = {
    "validate": ["validate", "FILE", "--provider", "local", "--findings", "OUT.ndjson"],
    "prepare": ["prepare", "FILE", "--fix", "--unsafe-fixes", "--output", "OUT"],
    "convert": ["convert", "FILE", "--output", "OUT.jsonl"],
    "split": ["split", "FILE", "--output", "OUT"],
    "advise": ["advise", "FILE"],
}
SLOW = [name for name in COMMANDS if name != "validate"]


@pytest.mark.parametrize("command", ["validate", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_commands_on_hostile_files_connect_nowhere_and_open_only_what_is_named(command: str, tmp_path: Path) -> None:
    """Neither they nor the processes of their pool, and nothing of the folder changes beside the named outputs."""
    secret = tmp_path / "secret" / "secret.json"
    secret.parent.mkdir()
    secret.write_text('{"type": "string"}', encoding="utf-8")
    data, out, work, temporary = (tmp_path / name for name in ("data", "out", "work", "temporary"))
    for folder in (data, out, work, temporary):
        folder.mkdir()
    (work / "ftpipe.toml").write_text(f'[providers.openai]\nbase_url = "{URL}/v1"\n', encoding="utf-8")
    files = write_hostile_files(data, URL, secret)
    assert len(files) >= 40
    before = {path: path.lstat().st_mtime_ns for path in data.iterdir()}
    lines = [
        [word.replace("FILE", str(path)).replace("OUT", str(out / str(number))) for word in COMMANDS[command]]
        for number, path in enumerate(files)
    ]
    runs = run_guarded(lines, work)
    assert [run.arguments for run in runs[: len(lines)]] == lines
    own = [work / "ftpipe.toml", work / ".env", work / ".ftpipe", tmp_path / "home", tmp_path / "guard", temporary]
    for run in runs:
        assert run.code in (0, 1, 2), run.arguments
        assert [event for event in run.others if not is_worker(event)] == [], run.arguments
        named = [Path(word) for word in run.arguments if word.startswith(str(data))] or [data]
        outputs = [Path(word) for word in run.arguments if word.startswith(str(out))]
        written = [path for path, writes in run.opened if writes]
        read = [path for path, writes in run.opened if not writes]
        assert [path for path in written if not is_below(path, [*outputs, *own, out, *SYSTEM])] == []
        assert [path for path in read if not is_below(path, [*named, *outputs, *own, out, *PROGRAM, *SYSTEM])] == []
    assert {path: path.lstat().st_mtime_ns for path in data.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("home",)) == [
        "data", "guard", "out", "secret", "temporary", "work",
    ]  # fmt: skip
    assert any(path == files[0] for path, _ in runs[0].opened)


def is_worker(event: list[Any]) -> bool:
    """Whether a process is one of ftpipe's own scan workers."""
    return event[0] == "subprocess.Popen" and "ftpipe.dataset.scan" in event[2]
