"""One file with a fault of every rule that a chat file can break: all are found in one run, safe ones are mended."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.fixes import fix_file
from ftpipe.dataset.rules import all_rules
from ftpipe.records import Report
from ftpipe.stages.count import count
from ftpipe.stages.validate import validate
from tests.dataset.negative_examples import image, parts, said
from tests.dataset.samples import chats, write
from tests.dataset.test_rules import BROKEN, EXPECTED

QUICK = CheckSettings(
    processes=1, engine="pure-python", near_duplicates=False, max_findings=1000, max_line_bytes=200_000
)
ONE_LINE = [c for c, (line, _, _) in EXPECTED.items() if line == 7 and c[:3] not in ("FT5", "FT6")]
ALONE = {"FT801", "FT803", "FT808", "FT817", "FT312"}
"""Faults that only show among the other lines; the file has its own ones of these."""
WHOLE_FILE = {"FT003", "FT005", "FT109", "FT703", "FT705", "FT707", "FT708", "FT710"}
JSON_ROWS = 900
"""So many good rows that the answers of the file are JSON as a rule."""


def faulty(folder: Path) -> tuple[Path, dict[str, int]]:
    """The file, and the line of each fault that stands on one."""
    rows: list[object] = [said(f"Give me number {n}.", f'{{"n": {n}}}') for n in range(JSON_ROWS)]
    at: dict[str, int] = {}
    for code in ONE_LINE:
        if code not in ALONE:
            rows.append((BROKEN / f"{code}.jsonl").read_bytes().split(b"\n")[6])
            at[code] = len(rows)
    more = {
        "FT409": parts(image("https://a.org/b.png")),
        "FT701": said("word " * 5000),
        "FT702": said("word " * 5001),
        "FT801": said("Give me number 0.", '{"n": 0}'),
        "FT803": said("Give me number 1.", '{"n": 0}'),
        "FT808": said("Give me number 10001.", "No."),
        "FT010": b"{" + b" " * QUICK.max_line_bytes,
    }
    for code, row in more.items():
        rows.append(row)
        at[code] = len(rows)
    path = write(folder / "faulty.json", rows)  # type: ignore[arg-type]  # records and raw lines, in turn
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path, at


def look(path: Path, *, held: Path | None = None) -> Report:
    """Everything at once: rules for the file, for a job's method, base and budget, and against two other files."""
    report = validate(
        path, method="dpo", model="gpt-3.5-turbo-0613", validation=held, test=held, settings=QUICK,
        today=dt.date(2026, 11, 24),
    )  # fmt: skip
    return count(report, model="gpt-3.5-turbo-0613", max_cost=0.0, settings=QUICK)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], Report]:
    """The file, the lines of its faults, and what is said about it."""
    folder = tmp_path_factory.mktemp("faulty")
    path, at = faulty(folder)
    held = write(folder / "held.jsonl", [said("Give me number 5.", "Five."), *chats(20)[12:]])
    return path, at, look(path, held=held)


def test_every_fault_is_reported_at_its_line_and_path_in_one_run(seen: tuple[Path, dict[str, int], Report]) -> None:
    """No fault hides another, and the file is refused."""
    _, at, report = seen
    places = {(f.code, f.line, f.path) for f in report.findings}
    lines = {(code, line) for code, line, _ in places}
    assert [code for code, line in at.items() if (code, line) not in lines] == []
    named = [code for code in at if code in EXPECTED and code != "FT801"]
    assert [code for code in named if (code, at[code], EXPECTED[code][1]) not in places] == []
    assert WHOLE_FILE - set(report.summary.counts) == set()
    assert not report.ok


def test_after_the_safe_fixes_they_are_gone_and_nothing_else_has_changed(
    seen: tuple[Path, dict[str, int], Report], tmp_path: Path
) -> None:
    """Lines without a safe fault are the same bytes; every other finding stands as it stood, line for line."""
    path, at, before = seen
    safe = {rule.code for rule in all_rules() if rule.fix and rule.fix[0] == "safe"} - {"FT003", "FT815"}
    done = fix_file(path, tmp_path / "fixed.jsonl")
    after = look(done.output)
    left = {f.code for f in after.findings if f.code in safe}
    assert left <= {"FT103", "FT215", "FT303"}  # a record spread over lines, a weight of 2, text that is no JSON
    old, new = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), done.output.read_bytes().split(b"\n")
    mended = {f.line for f in before.findings if f.code in safe} | {at["FT007"]}
    kept = [raw for number, raw in enumerate(old, 1) if number not in mended]
    rest = iter(new)
    assert all(raw in rest for raw in kept)  # in their order
    same = {"FT101", "FT104", "FT204", "FT205", "FT208", "FT210", "FT218", "FT404", "FT409", "FT701", "FT901", "FT902"}
    assert {c: after.summary.counts.get(c) for c in same} == {c: before.summary.counts.get(c) for c in same}
    assert json.loads(done.manifest.read_text())["fixes"] == done.counts
