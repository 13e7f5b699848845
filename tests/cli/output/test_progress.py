"""On a real terminal: colour and nothing else, lines that fit, whatever the data hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.cli.cli_runner import chat_file

PAYLOADS = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x1b]8;;https://example.invalid\x1b\\click\x1b]8;;\x1b\\",
    "\x9b2J",
    "[bold red]markup[/bold red][/nope]",
    "\u202egnirts\u202c\u2066x",
    "a\rb\x08c\x00d",
    "\ud800 half",
]
COLOUR = re.compile("\x1b\\[[0-9;]*m")


def on_a_terminal(*argv: str, columns: int = 80) -> tuple[str, int]:
    """Everything that a command writes to a terminal of that width, and its exit code."""
    outside = ("NO_COLOR", "COLUMNS", "LINES")  # a width in the environment counts more than the terminal's own
    inherited = {name: value for name, value in os.environ.items() if name not in outside}
    environment = inherited | {"TERM": "xterm-256color"}
    process = pexpect.spawn(
        sys.executable,
        ["-m", "ftpipe", *argv],
        env=environment,
        dimensions=(24, columns),
        encoding="utf-8",
        codec_errors="replace",
        timeout=60,
    )
    text = str(process.read())
    process.close()
    return text, int(process.exitstatus or 0)


@pytest.mark.parametrize("payload", PAYLOADS, ids=[f"payload{number}" for number in range(len(PAYLOADS))])
def test_terminal_output_has_no_control_characters(payload: str) -> None:
    """Data in a role, in a name and in a file's own name cannot move the cursor, set a title or turn the writing."""
    row = {"messages": [{"role": payload, "content": payload, payload: payload}, {"role": "assistant", "content": "x"}]}
    text, code = on_a_terminal("prepare", str(chat_file(extra=json.dumps(row) + "\n")))
    assert code == 1
    rest = COLOUR.sub("", text).replace("\r\n", "\n")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest)


def test_terminal_output_sanitizes_file_names() -> None:
    """The name of a file is data, too."""
    path = chat_file("a\x1b]0;x\x07\u202e.jsonl")
    text, _ = on_a_terminal("prepare", str(path))
    gone, code = on_a_terminal("prepare", "gone\x1b[2J.jsonl")
    assert code == 2
    for shown in (text, gone):
        assert "\x1b]" not in shown
        assert "\x1b[2J" not in shown
        assert "\u202e" not in shown


def test_terminal_output_fits_the_width() -> None:
    """At 60 columns every line of a report fits, but for words that are longer themselves."""
    text, _ = on_a_terminal("prepare", str(chat_file()), columns=60)
    for line in COLOUR.sub("", text).replace("\r", "").splitlines():
        assert len(line) <= 60 or " " not in line.strip()


def test_terminal_output_no_color() -> None:
    """``--no-color`` leaves plain text."""
    text, _ = on_a_terminal("prepare", str(chat_file()), "--no-color")
    assert "\x1b" not in text
    assert Path("train.jsonl").exists()


SPINNING = """
import sys
from ftpipe.cli.context import CliContext
from ftpipe.cli.output.progress import spinner
with spinner(CliContext(quiet="quiet" in sys.argv), "waiting for the answer"):
    pass
"""


@pytest.mark.parametrize(("argument", "is_shown"), [("", True), ("quiet", False)])
def test_spinner_is_shown_on_a_terminal_only(argument: str, is_shown: bool) -> None:
    """And is gone when the answer comes; a log gets nothing."""
    command = [sys.executable, "-c", SPINNING, argument]
    process = pexpect.spawn(command[0], command[1:], encoding="utf-8", timeout=60, dimensions=(24, 80))
    text = str(process.read())
    process.close()
    assert ("waiting for the answer" in text) == is_shown
    assert text.endswith("\x1b[2K") or not is_shown
    logged = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert logged.stdout + logged.stderr == ""
