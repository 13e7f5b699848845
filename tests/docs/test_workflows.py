"""The workflows name what the project declares, and pin what they run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_actions_by_commit(path: Path) -> None:
    uses = re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))
    assert uses
    assert [used for used in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_may_only_read_by_default(path: Path) -> None:
    assert "\npermissions:\n  contents: read\n" in path.read_text(encoding="utf-8")


def test_ci_runs_every_python_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrices = re.findall(r"^ +python: (\[.+\])$", (ROOT / ".github/workflows/ci.yml").read_text(), flags=re.MULTILINE)
    assert matrices == [str(declared).replace("'", '"')] * 2
    assert project["requires-python"] == f">={declared[0]}"


def test_ci_runs_the_script_of_the_gates() -> None:
    assert "run: bash .ci/run\n" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert (ROOT / ".ci/run").is_file()
