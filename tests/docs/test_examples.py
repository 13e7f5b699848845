"""The output that the pages show is what the commands print."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftpipe.grading.graders import parse_grader

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = (
    "import sys, time_machine; time_machine.travel('2026-11-28', tick=True).start(); from ftpipe.cli import run; run()"
)
"""Prices and end dates are shown as they are on that day."""
NEEDS_A_MODEL = re.compile(r"ftpipe (chat|train (?!.*--dry-run|nothing))")
"""Commands that train or answer; tests/test_end_to_end.py does that."""


def steps_of(page: Path) -> list[tuple[str, str]]:
    """The commands of a page that are shown with their output, in order, each with that output."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [step for block in blocks for step in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)]


SESSIONS = {page.name: steps for page in PAGES if (steps := steps_of(page))}


def matches(shown: str, printed: str) -> bool:
    """True if the output is what is shown; ``…`` stands for anything, as a line for any number of lines."""
    pattern = re.escape(shown.rstrip())
    pattern = re.sub(r"^…\\\n", r"(?:.*\n)*?", pattern, flags=re.MULTILINE)
    pattern = re.sub(r"\\\n…$", r"(?:\n.*)*", pattern)
    return re.fullmatch(pattern.replace("…", ".*"), printed.rstrip()) is not None


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a\n…\nd", "a\nd", True),
        ("a\n…", "a", True),
        ("a …", "a b\nc", False),
        ("a\n…\nd", "a\nb\nc", False),
        ("a.c", "abc", False),
    ],
)
def test_matches_takes_the_ellipsis_for_what_is_left_out(shown: str, printed: str, expected: bool) -> None:
    assert matches(shown, printed) is expected


def test_docs_show_output() -> None:
    assert {"README.md", "getting-started.md", "prepare.md", "train-hosted.md"} <= set(SESSIONS)


@pytest.mark.parametrize("page", SESSIONS)
def test_docs_show_what_commands_print(own_home: Path, page: str) -> None:
    for name in ("data", "configs"):
        shutil.copytree(ROOT / name, own_home / name)
    for command, shown in SESSIONS[page]:
        assert command.startswith("ftpipe "), command
        if NEEDS_A_MODEL.match(command):
            continue
        ran = subprocess.run(
            [sys.executable, "-c", RUN, *command.split()[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"},
            timeout=120,
            check=False,
        )
        assert matches(shown, ran.stdout), f"{command}\n{ran.stdout}"


def test_docs_graders_are_accepted() -> None:
    """Every grader that a page shows as JSON."""
    blocks = [
        json.loads(block)
        for page in PAGES
        for block in re.findall(r"```json\n(\{.*?\})\n```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        if '"type": "multi"' in block or '"type": "string_check"' in block
    ]
    assert blocks
    for grader in blocks:
        parse_grader(grader)
