"""Every row of the fault table has tests, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (TESTS / "faults" / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


@cache
def names_in(path: Path) -> frozenset[str]:
    """The functions of a test file; none if there is no such file."""
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def test_fault_matrix_has_every_row_once() -> None:
    """In order, each with fault, provocation, end and tests."""
    assert [int(row[0]) for row in ROWS] == list(range(1, 69))
    assert [row[0] for row in ROWS if len(row) != 5 or not all(row)] == []


def test_fault_matrix_names_existing_tests() -> None:
    """A test that was renamed or removed is renamed or removed here, too."""
    named = {(row[0], test) for row in ROWS for test in re.findall(r"`([\w/]+\.py::\w+)`", row[4])}
    assert {row for row, _ in named} == {row[0] for row in ROWS}
    gone = [
        f"row {row}: {test}"
        for row, test in sorted(named)
        if test.partition("::")[2] not in names_in(TESTS / test.partition("::")[0])
    ]
    assert gone == []
