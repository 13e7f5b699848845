"""Automatic fixes of a file, and the quarantine of faulty lines."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.fixes import fix_file, quarantine
from ftpipe.dataset.fixes.fixer import removed_values
from ftpipe.dataset.fixes.safe import SAFE
from ftpipe.dataset.fixes.unsafe import LOSSLESS, UNSAFE
from ftpipe.dataset.fixes.whole_file import WHOLE_FILE
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.dataset.rules import all_rules
from ftpipe.errors import UsageError
from ftpipe.stages.validate import failing_lines, validate
from tests.dataset.file_level_examples import prose
from tests.dataset.negative_examples import PARAMETERS, Lines, exchange
from tests.dataset.samples import chats, write
from tests.dataset.test_messages_of_values import CHATS, ODD_VALUES, places, replaced
from tests.dataset.test_rules import BROKEN

SAFE_LINE_FIXES = ["FT003", "FT005", "FT006", "FT007", "FT011", "FT012", "FT103"]
UNSAFE_LINE_FIXES = ["FT004", "FT801", *WHOLE_FILE]
"""Fixes that need the line or the whole file, not only the record."""
PROMISED = sorted({(rule.code, rule.fix[0]) for rule in all_rules() if rule.fix})
SAFE_CHANGES = {
    ("FT207", "content"), ("FT215", "weight"), ("FT219", "role"), ("FT602", "role"), ("FT303", "arguments"),
    ("FT307", "id"), ("FT307", "tool_call_id"),
}  # fmt: skip
"""Code and key of the values that a safe fix writes differently."""


@dataclass
class Faulty:
    """A file with one fault, and how it is checked."""

    path: Path
    options: dict[str, Any]
    training: Path | None = None

    def codes(self, path: Path) -> set[str]:
        """The codes that ``validate`` reports for a file instead of this one."""
        if self.training is not None:
            return set(validate(self.training, validation=path, **self.options).summary.counts)
        return set(validate(path, **self.options).summary.counts)


def faulty_file(code: str, folder: Path) -> Faulty:
    """A file made for the fix of a rule."""
    if code == "FT701":
        long = exchange("word " * 5000)
        options = {"model": "gpt-3.5-turbo-0613", "today": dt.date(2026, 1, 1)}
        return Faulty(write(folder / "a.jsonl", [*chats(11), long]), options)
    if code == "FT703":
        return Faulty(
            write(folder / "b.jsonl", [*chats(24)[12:], *chats(1)]), {}, write(folder / "a.jsonl", [*chats(12)])
        )
    if code == "FT802":
        pytest.importorskip("rensa")
        rows: Lines = [*(prose(n) for n in range(12)), prose(3, "clear")]
        return Faulty(write(folder / "a.jsonl", rows), {"settings": CheckSettings(near_duplicates=True)})
    path = next(BROKEN.glob(f"{code}.*"))
    return Faulty(path, {"target": "azure"} if code.startswith("FT6") else {})


@pytest.mark.parametrize(("code", "kind"), PROMISED)
def test_promised_fix_changes_the_file_and_leaves_no_finding(code: str, kind: str, tmp_path: Path) -> None:
    """Of every rule whose explanation names an automatic fix; an unsafe one is only applied on request."""
    faulty = faulty_file(code, tmp_path)
    assert code in faulty.codes(faulty.path)
    options = {name: value for name, value in faulty.options.items() if name != "today"}
    options |= {"path": faulty.path, "training": faulty.training}
    safe = fix_file(output=tmp_path / "safe.jsonl", **options)
    assert safe.counts == ({code: 1} if kind == "safe" else {})
    fixed = safe if kind == "safe" else fix_file(output=tmp_path / "fixed.jsonl", unsafe=True, **options)
    assert fixed.counts.get(code, 0) >= 1
    assert code not in faulty.codes(fixed.output)
    if code != "FT003":
        assert fixed.output.read_bytes() != faulty.path.read_bytes()
    if kind == "safe":
        old, new = faulty.path.read_bytes().split(b"\n"), fixed.output.read_bytes().split(b"\n")
        assert len(set(old) - set(new)) <= 1 + (code == "FT011")


@pytest.mark.parametrize("code", [code for code, kind in PROMISED if kind == "unsafe"])
def test_unsafe_fix_keeps_what_it_removes(code: str, tmp_path: Path) -> None:
    """Every key, message, record and text that is not in the fixed file is in the file beside it."""
    faulty = faulty_file(code, tmp_path)
    result = fix_file(
        faulty.path, tmp_path / "fixed.jsonl", unsafe=True, training=faulty.training,
        model=faulty.options.get("model", ""), settings=CheckSettings(select=(code,), near_duplicates=code == "FT802"),
    )  # fmt: skip
    if code in LOSSLESS or code in ("FT004", "FT815"):
        assert (result.sidecar, result.removed) == (None, 0)
        return
    assert result.sidecar is not None
    entries = [json.loads(line) for line in result.sidecar.read_text().splitlines()]
    assert len(entries) == result.removed
    assert {entry["rule"] for entry in entries} == {code}
    kept = {json.dumps(entry["value"]) for entry in entries}
    diff = [line[1:] for line in result.diff.read_bytes().split(b"\n") if line[:1] == b"-"]
    if code in DROPPING:
        assert kept == {json.dumps(json.loads(line)) for line in diff}
    assert all(value in json.dumps(list(map(_loads, diff))) for value in kept)


DROPPING = {"FT208", "FT503", "FT701", "FT703", "FT801", "FT802"}
"""Rules whose fix removes the record."""


def _loads(line: bytes) -> Any:
    return json.loads(line, strict=False)


def test_rules_declare_exactly_the_fixes_that_exist() -> None:
    declared = {rule.code: rule.fix[0] for rule in all_rules() if rule.fix}
    safe = dict.fromkeys([*SAFE, *SAFE_LINE_FIXES], "safe")
    assert declared == safe | dict.fromkeys([*UNSAFE, *UNSAFE_LINE_FIXES], "unsafe")


def test_safe_fixes_remove_nothing(tmp_path: Path) -> None:
    """Of records with any value at any place: no key, message or text is gone, and no record."""
    rows: Lines = [
        replaced(record, path, value)
        for record in CHATS
        for path in places(record)
        for value in ODD_VALUES
        if value == value
    ]
    for code in SAFE:
        lines = next(BROKEN.glob(f"{code}.*")).read_bytes().splitlines()
        rows += [json.loads(line) for line in lines]
    source = write(tmp_path / "odd.jsonl", rows)
    result = fix_file(source, tmp_path / "fixed.jsonl")
    fixed = [json.loads(line) for line in result.output.read_bytes().splitlines()]
    changes = {
        at.rpartition(".")[2].rpartition("]")[2] or at
        for old, new in zip(map(json.loads, source.read_bytes().splitlines()), fixed, strict=True)
        for at, value in removed_values(old, new)
        if not (isinstance(value, list) and at.endswith("content"))
    }
    assert changes <= {key for _, key in SAFE_CHANGES}
    assert (result.sidecar, result.dropped) == (None, 0)


def test_fix_file_copies_valid_file_byte_for_byte(tmp_path: Path) -> None:
    source = write(tmp_path / "good.jsonl", [*chats()])
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=True)
    assert result.output.read_bytes() == source.read_bytes()
    assert (result.counts, result.dropped, result.sidecar, result.diff.read_bytes()) == ({}, 0, None, b"")


def test_fix_file_writes_manifest_and_sidecar_of_removed_keys(tmp_path: Path) -> None:
    row = chats(12)[11]
    row["messages"][1] |= {"train": False, "reasoning_content": "I think."}
    source = write(tmp_path / "extra.jsonl", [*chats(11), {**row, "id": 7}])
    assert fix_file(source, tmp_path / "safe.jsonl").counts == {}
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=True)
    manifest = json.loads(result.manifest.read_text())
    assert manifest["input"]["sha256"] == sha256_of_dataset(source) and manifest["output"][
        "sha256"
    ] == sha256_of_dataset(result.output)
    assert (manifest["fixes"], manifest["removed"]) == ({"FT110": 1, "FT214": 2}, 3)
    assert result.sidecar is not None
    assert [json.loads(line) for line in result.sidecar.read_text().splitlines()] == [
        {"line": 12, "rule": "FT110", "path": "id", "value": 7},
        {"line": 12, "rule": "FT214", "path": "messages[1].train", "value": False},
        {"line": 12, "rule": "FT214", "path": "messages[1].reasoning_content", "value": "I think."},
    ]
    assert result.diff.read_bytes().startswith(b"@@ line 12 @@\n-{")


def test_unsafe_fixes_never_make_an_answer_trained_that_is_not_to_be_learnt(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = chats(14)
    rows[11] |= {"accepted": False}
    rows[12]["messages"][1] |= {"train": False}
    rows[13]["messages"][1] |= {"feedback": "thumbs_down"}
    result = fix_file(write(tmp_path / "marked.jsonl", [*rows]), tmp_path / "fixed.jsonl", unsafe=True)
    fixed = [json.loads(line) for line in result.output.read_bytes().splitlines()]
    assert fixed[:11] == rows[:11]
    assert [row["messages"][1].get("weight") for row in fixed[11:]] == [0, 0]
    assert (result.dropped, result.sidecar is not None) == (1, True)


@pytest.mark.parametrize("unsafe", [False, True])
def test_fix_file_leaves_values_that_rewriting_would_lose(unsafe: bool, tmp_path: Path) -> None:
    """Duplicate keys and NaN stay, also in a line and in an array that another fix rewrites."""
    twice = b'{"messages": [{"role": "developer", "role": "developer", "content": "x"}, {"role": "assistant"}]}'
    number = b'{"messages": [{"role": "developer", "content": "x"}, {"role": "assistant", "content": NaN}]}'
    source = write(tmp_path / "a.jsonl", [*chats(11), twice, number])
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=unsafe)
    assert result.output.read_bytes() == source.read_bytes()
    source.write_bytes(b"[%s,\n%s]" % (twice, twice))
    array = fix_file(source, tmp_path / "fixed2.jsonl", unsafe=unsafe, settings=CheckSettings(ignore=("FT801",)))
    assert array.output.read_bytes().splitlines() == [twice, twice]


def test_fix_file_keeps_digits(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "developer", "content": "x"}, {"role": "assistant", "weight": 12345678901234567890}]}'
    result = fix_file(write(tmp_path / "a.jsonl", [row.encode()]), tmp_path / "fixed.jsonl")
    assert result.output.read_text() == row.replace("developer", "system") + "\n"


def test_fix_file_joins_a_record_that_spans_lines(tmp_path: Path) -> None:
    """Among records that do not; what only looks like one stays."""
    pretty = json.dumps(chats(2)[1], indent=2).encode()
    source = write(tmp_path / "a.jsonl", [*chats(1), pretty, *chats(12)[2:], b"{", b'"broken": ['])
    result = fix_file(source, tmp_path / "fixed.jsonl")
    lines = result.output.read_bytes().splitlines()
    assert result.counts == {"FT103": 1}
    assert [json.loads(line) for line in lines[:12]] == chats(12)
    assert lines[12:] == [b"{", b'"broken": [']


def test_fix_file_writes_legacy_functions_as_tools(tmp_path: Path) -> None:
    """With the result under the id of its call; the new record breaks no rule."""
    question, call_message = {"role": "user", "content": "Rome?"}, {
        "role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'},
    }  # fmt: skip
    answers = [{"role": "function", "name": "weather", "content": "20"}, {"role": "assistant", "content": "20."}]
    function = {"name": "weather", "parameters": PARAMETERS}
    row = {"messages": [question, call_message, *answers], "functions": [function]}
    result = fix_file(write(tmp_path / "a.jsonl", [*chats(11), row]), tmp_path / "fixed.jsonl", unsafe=True)
    new = json.loads(result.output.read_bytes().splitlines()[11])
    assert new["tools"] == [{"type": "function", "function": function}]
    assert new["messages"][1]["tool_calls"][0]["function"] == call_message["function_call"]
    assert new["messages"][2] == {"role": "tool", "content": "20", "tool_call_id": "call_1"}
    assert set(validate(result.output).summary.counts) <= {"FT113"}


def test_fix_file_writes_array_and_pretty_records_as_lines(tmp_path: Path) -> None:
    source = tmp_path / "array.jsonl"
    source.write_text(json.dumps(chats(), indent=1))
    assert validate(fix_file(source, tmp_path / "fixed.jsonl").output).ok
    pretty = tmp_path / "pretty.jsonl"
    pretty.write_text("\n".join(json.dumps(row, indent=2) for row in chats()))
    assert validate(fix_file(pretty, tmp_path / "fixed2.jsonl").output).ok


def test_fix_file_skips_ignored_rules(tmp_path: Path) -> None:
    settings = CheckSettings(ignore=("FT812", "FT815"))
    for code in settings.ignore:
        output = tmp_path / f"{code}.jsonl"
        assert fix_file(BROKEN / f"{code}.jsonl", output, unsafe=True, settings=settings).counts == {}


def test_fix_file_refuses_to_overwrite_input(tmp_path: Path) -> None:
    source = write(tmp_path / "good.jsonl", [*chats()])
    with pytest.raises(UsageError):
        fix_file(source, source)


def test_quarantine_splits_lines_into_two_files(tmp_path: Path) -> None:
    source = write(tmp_path / "all.jsonl", [*chats(5)])
    assert quarantine(source, {2, 4}, tmp_path / "good.jsonl", tmp_path / "bad.jsonl") == (3, 2)
    blank = tmp_path / "blank.jsonl"
    blank.write_bytes(source.read_bytes() + b"\n  \n")
    assert quarantine(blank, {2, 4}, tmp_path / "good2.jsonl", tmp_path / "bad2.jsonl") == (3, 2)
    lines = source.read_bytes().splitlines()
    assert (tmp_path / "bad.jsonl").read_bytes().splitlines() == [lines[1], lines[3]]


def test_quarantine_of_failing_lines_leaves_valid_file(tmp_path: Path) -> None:
    """Like ``--quarantine``, also for findings beyond those that are listed."""
    rows = chats(40)
    source = write(tmp_path / "all.jsonl", [*rows[:20], b"{", {"messages": []}, *rows[20:]])
    lines = failing_lines(source, settings=CheckSettings(max_findings=1))
    assert lines == {21, 22}
    quarantine(source, lines, tmp_path / "good.jsonl", tmp_path / "bad.jsonl")
    assert validate(tmp_path / "good.jsonl").ok


@pytest.mark.parametrize("name", ["fixed.jsonl.diff", "fixed.jsonl.removed.jsonl", "fixed.jsonl.manifest.json"])
def test_fix_file_spares_files_beside_the_output(name: str, tmp_path: Path) -> None:
    """Only what an earlier fix wrote is replaced."""
    source, output = BROKEN / "FT103.jsonl", tmp_path / "fixed.jsonl"
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="has not written it"):
        fix_file(source, output)
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
    (tmp_path / name).unlink()
    for _ in range(2):
        assert fix_file(source, output).counts == {"FT103": 1}
