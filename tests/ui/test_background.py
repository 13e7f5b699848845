"""Commands in the background: what is known of them while they run, after they ended, and to the next server."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftpipe.ui import background
from ftpipe.ui.background import BackgroundCommands, CommandState

SECONDS = 30
"""For a process to end, on a busy machine."""
PROGRAM = """
import json, sys
print("scored 3 of 12", file=sys.stderr)
error = {"error": {"message": "no", "hint": "do"}} if "bad" in sys.argv else {}
print(json.dumps({"arguments": sys.argv[1:], **error}))
"""


def commands_in(folder: Path, program: str = PROGRAM) -> BackgroundCommands:
    return BackgroundCommands(
        folder, folder / ".ftpipe", options=("--registry", "r.db"), program=(sys.executable, "-c", program)
    )


def ended(commands: BackgroundCommands, command_id: str) -> CommandState:
    deadline = time.monotonic() + SECONDS
    while True:
        state = commands.find(command_id)
        assert state is not None
        if not state.is_running:
            return state
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_command_is_known_to_the_next_server(tmp_path: Path) -> None:
    commands = commands_in(tmp_path)
    command_id = commands.start(["evaluate", "--data=x y.jsonl"], title="Evaluate")
    state = ended(commands, command_id)
    assert state.document == {"arguments": ["evaluate", "--json", "--registry", "r.db", "--data=x y.jsonl"]}
    assert (state.line, state.progress) == ("ftpipe evaluate '--data=x y.jsonl' --registry r.db", (3, 12))
    assert state.error is None
    assert commands_in(tmp_path).find(command_id) == state
    assert commands.find("cmd-000000000000") is None
    assert commands.find("../registry") is None


def test_command_that_failed_says_why(tmp_path: Path) -> None:
    commands = commands_in(tmp_path)
    assert ended(commands, commands.start(["bad"], title="x")).error == ("no", "do")
    killed = commands_in(tmp_path, "import sys; sys.exit('it broke')")
    assert ended(killed, killed.start(["x"], title="x")).error == ("it broke", "")


def test_recent_reads_only_the_output_of_wanted_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation writes megabytes, and the page of a run looks every second."""
    commands = commands_in(tmp_path)
    first = commands.start(["resume", "run-1"], title="Continue run-1")
    second = commands.start(["evaluate", "model"], title="Evaluate")
    for command_id in (first, second):
        ended(commands, command_id)
    read: list[Path] = []
    document = background._document

    def noted_document(path: Path) -> Mapping[str, Any] | None:
        read.append(path)
        return document(path)

    monkeypatch.setattr(background, "_document", noted_document)
    assert [one.id for one in commands_in(tmp_path).recent(lambda words: "run-1" in words)] == [first]
    assert {path.stem for path in read} == {first}
    assert [one.id for one in commands.recent(lambda _words: True, limit=1)] == [second]


def test_damaged_output_is_no_result(tmp_path: Path) -> None:
    commands = commands_in(tmp_path)
    command_id = commands.start(["x"], title="x")
    ended(commands, command_id)
    (tmp_path / ".ftpipe" / background.FOLDER / f"{command_id}.out").write_text("{", encoding="utf-8")
    assert ended(commands, command_id).error == ("scored 3 of 12", "")
