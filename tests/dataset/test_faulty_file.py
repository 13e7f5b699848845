"""One file with every fault that a chat file can have: all are reported in one run, and the safe ones are fixed."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.fixes import fix_file
from ftpipe.dataset.rules import all_rules
from ftpipe.records import Report
from ftpipe.stages.count import count
from ftpipe.stages.validate import validate
from tests.dataset.negative_examples import exchange, image, with_parts
from tests.dataset.samples import chats, write
from tests.dataset.test_rules import BROKEN, EXPECTED

QUICK = CheckSettings(
    processes=1, engine="pure-python", near_duplicates=False, max_findings=1000, max_line_bytes=200_000
)
ONE_LINE = [c for c, (line, _, _) in EXPECTED.items() if line == 7 and c[:3] not in ("FT5", "FT6")]
STATISTICAL = {"FT801", "FT803", "FT808", "FT817", "FT312"}
"""Faults that depend on the other lines; the file has separate examples of these."""
WHOLE_FILE = {"FT003", "FT005", "FT109", "FT703", "FT705", "FT707", "FT708", "FT710"}
JSON_ROWS = 900
"""Enough valid rows for nearly all answers to be JSON."""


def write_faulty_file(folder: Path) -> tuple[Path, dict[str, int]]:
    """The file, and the line of each fault that has one."""
    rows: list[object] = [exchange(f"Give me number {n}.", f'{{"n": {n}}}') for n in range(JSON_ROWS)]
    lines: dict[str, int] = {}
    for code in ONE_LINE:
        if code not in STATISTICAL:
            rows.append((BROKEN / f"{code}.jsonl").read_bytes().split(b"\n")[6])
            lines[code] = len(rows)
    more = {
        "FT409": with_parts(image("https://a.org/b.png")),
        "FT701": exchange("word " * 5000),
        "FT702": exchange("word " * 5001),
        "FT801": exchange("Give me number 0.", '{"n": 0}'),
        "FT803": exchange("Give me number 1.", '{"n": 0}'),
        "FT808": exchange("Give me number 10001.", "No."),
        "FT010": b"{" + b" " * QUICK.max_line_bytes,
    }
    for code, row in more.items():
        rows.append(row)
        lines[code] = len(rows)
    path = write(folder / "faulty.json", rows)  # type: ignore[arg-type]  # records and raw lines
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path, lines


def check(path: Path, *, holdout: Path | None = None) -> Report:
    """All rules at once: for the file, for the method, base model and budget of a job, and against two other files."""
    report = validate(
        path, method="dpo", model="gpt-3.5-turbo-0613", validation=holdout, test=holdout, settings=QUICK,
        today=dt.date(2026, 11, 24),
    )  # fmt: skip
    prices = PriceTable.load({"gpt-3.5-turbo-0613": 8.0})
    return count(report, model="gpt-3.5-turbo-0613", prices=prices, max_cost=0.0, settings=QUICK)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], Report]:
    """The file, the lines of its faults, and its report."""
    folder = tmp_path_factory.mktemp("faulty")
    path, lines = write_faulty_file(folder)
    holdout = write(folder / "holdout.jsonl", [exchange("Give me number 5.", "Five."), *chats(20)[12:]])
    return path, lines, check(path, holdout=holdout)


def test_validate_reports_every_fault_of_one_file(faulty: tuple[Path, dict[str, int], Report]) -> None:
    """With line and path: no fault hides another one."""
    _, expected, report = faulty
    locations = {(f.code, f.line, f.path) for f in report.findings}
    lines = {(code, line) for code, line, _ in locations}
    assert [code for code, line in expected.items() if (code, line) not in lines] == []
    named = [code for code in expected if code in EXPECTED and code != "FT801"]
    assert [code for code in named if (code, expected[code], EXPECTED[code][1]) not in locations] == []
    assert WHOLE_FILE - set(report.summary.counts) == set()
    assert not report.ok


def test_fix_file_fixes_safe_faults_and_changes_nothing_else(
    faulty: tuple[Path, dict[str, int], Report], tmp_path: Path
) -> None:
    """Lines without a safe fault keep their bytes, and all other findings remain."""
    path, lines, before = faulty
    safe = {rule.code for rule in all_rules() if rule.fix and rule.fix[0] == "safe"} - {"FT003"}
    result = fix_file(path, tmp_path / "fixed.jsonl")
    after = check(result.output)
    remaining = {f.code for f in after.findings if f.code in safe}
    assert remaining <= {
        "FT103",
        "FT215",
        "FT303",
    }  # a record spread over lines, a weight of 2, arguments that are not JSON
    old, new = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), result.output.read_bytes().split(b"\n")
    fixed = {f.line for f in before.findings if f.code in safe} | {lines["FT007"]}
    unchanged = [raw for number, raw in enumerate(old, 1) if number not in fixed]
    rest = iter(new)
    assert all(raw in rest for raw in unchanged)  # in their order
    same = {"FT101", "FT104", "FT204", "FT205", "FT208", "FT210", "FT218", "FT404", "FT409", "FT701", "FT901", "FT902"}
    assert {c: after.summary.counts.get(c) for c in same} == {c: before.summary.counts.get(c) for c in same}
    assert json.loads(result.manifest.read_text())["fixes"] == result.counts
