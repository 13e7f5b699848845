"""Automatic fixes of a file, and the quarantine of faulty lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.fixes import fix_file, quarantine
from ftpipe.dataset.fixes.safe import SAFE
from ftpipe.dataset.fixes.unsafe import UNSAFE
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.dataset.rules import all_rules
from ftpipe.errors import UsageError
from ftpipe.stages.validate import failing_lines, validate
from tests.dataset.samples import chats, write
from tests.dataset.test_rules import BROKEN

SAFE_LINE_FIXES = ["FT005", "FT006", "FT007", "FT011", "FT012", "FT103"]
UNSAFE_LINE_FIXES = ["FT004", "FT801"]
"""Fixes that need the line or the whole file, not only the record."""


@pytest.mark.parametrize("code", sorted([*SAFE_LINE_FIXES, *SAFE]))
def test_fix_file_safe_fix_removes_finding_and_changes_one_line(code: str, tmp_path: Path) -> None:
    source, target = BROKEN / f"{code}.jsonl", "azure" if code.startswith("FT6") else "openai"
    result = fix_file(source, tmp_path / "fixed.jsonl")
    assert result.counts == {code: 1}
    assert code not in validate(result.output, target=target).summary.counts
    old, new = source.read_bytes().split(b"\n"), result.output.read_bytes().split(b"\n")
    assert len(set(old) - set(new)) <= 1 + (code == "FT011")


@pytest.mark.parametrize("code", sorted([*UNSAFE_LINE_FIXES, *UNSAFE]))
def test_fix_file_unsafe_fix_needs_unsafe(code: str, tmp_path: Path) -> None:
    source = BROKEN / f"{code}.jsonl"
    assert code not in fix_file(source, tmp_path / "safe.jsonl").counts
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=True)
    assert result.counts.get(code) == 1
    assert code not in validate(result.output).summary.counts


def test_rules_declare_exactly_the_fixes_that_exist() -> None:
    """FT003 is fixed by the upload, which uses a name that ends in ``.jsonl``."""
    declared = {rule.code: rule.fix[0] for rule in all_rules() if rule.fix and rule.code != "FT003"}
    safe = dict.fromkeys([*SAFE, *SAFE_LINE_FIXES], "safe")
    assert declared == safe | dict.fromkeys([*UNSAFE, *UNSAFE_LINE_FIXES], "unsafe")


def test_fix_file_copies_valid_file_byte_for_byte(tmp_path: Path) -> None:
    source = write(tmp_path / "good.jsonl", [*chats()])
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=True)
    assert result.output.read_bytes() == source.read_bytes()
    assert (result.counts, result.dropped, result.sidecar, result.diff.read_bytes()) == ({}, 0, None, b"")


def test_fix_file_writes_manifest_and_sidecar_of_moved_keys(tmp_path: Path) -> None:
    source = write(tmp_path / "extra.jsonl", [*chats(11), {**chats(12)[11], "id": 7}])
    result = fix_file(source, tmp_path / "fixed.jsonl")
    manifest = json.loads(result.manifest.read_text())
    assert manifest["input"]["sha256"] == sha256_of_dataset(source) and manifest["output"][
        "sha256"
    ] == sha256_of_dataset(result.output)
    assert manifest["fixes"] == {"FT110": 1}
    assert result.sidecar is not None and json.loads(result.sidecar.read_text()) == {"line": 12, "id": 7}
    assert result.diff.read_bytes().startswith(b"@@ line 12 @@\n-{")


def test_fix_file_writes_array_and_pretty_records_as_lines(tmp_path: Path) -> None:
    source = tmp_path / "array.jsonl"
    source.write_text(json.dumps(chats(), indent=1))
    assert validate(fix_file(source, tmp_path / "fixed.jsonl").output).ok
    pretty = tmp_path / "pretty.jsonl"
    pretty.write_text("\n".join(json.dumps(row, indent=2) for row in chats()))
    assert validate(fix_file(pretty, tmp_path / "fixed2.jsonl").output).ok


def test_fix_file_skips_ignored_rules(tmp_path: Path) -> None:
    result = fix_file(BROKEN / "FT812.jsonl", tmp_path / "fixed.jsonl", settings=CheckSettings(ignore=("FT812",)))
    assert result.counts == {}


def test_fix_file_refuses_to_overwrite_input(tmp_path: Path) -> None:
    source = write(tmp_path / "good.jsonl", [*chats()])
    with pytest.raises(UsageError):
        fix_file(source, source)


def test_quarantine_splits_lines_into_two_files(tmp_path: Path) -> None:
    source = write(tmp_path / "all.jsonl", [*chats(5)])
    assert quarantine(source, {2, 4}, tmp_path / "good.jsonl", tmp_path / "bad.jsonl") == (3, 2)
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


@pytest.mark.parametrize("name", ["fixed.jsonl.diff", "fixed.jsonl.extra.jsonl", "fixed.jsonl.manifest.json"])
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
