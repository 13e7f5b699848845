"""Fixes write a new file, mend what is named, leave the rest byte for byte, and say what they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.fixes import fix_file, quarantine
from ftpipe.dataset.fixes.safe import SAFE
from ftpipe.dataset.fixes.unsafe import UNSAFE
from ftpipe.dataset.identity import sha256_of
from ftpipe.dataset.rules import find_rule
from ftpipe.errors import UsageError
from ftpipe.stages.validate import failing_lines, validate
from tests.dataset.samples import chats, write
from tests.dataset.test_rules import BROKEN

SAFE_BYTES = ["FT005", "FT006", "FT007", "FT011", "FT012", "FT103"]
UNSAFE_BYTES = ["FT004", "FT801"]


@pytest.mark.parametrize("code", sorted([*SAFE_BYTES, *SAFE]))
def test_a_safe_fix_removes_its_finding_and_touches_one_line(code: str, tmp_path: Path) -> None:
    """The rule is silent afterwards, and every other line is the same."""
    source, target = BROKEN / f"{code}.jsonl", "azure" if code.startswith("FT6") else "openai"
    result = fix_file(source, tmp_path / "fixed.jsonl")
    assert result.counts == {code: 1}
    assert code not in validate(result.output, target=target).summary.counts
    old, new = source.read_bytes().split(b"\n"), result.output.read_bytes().split(b"\n")
    assert len(set(old) - set(new)) <= 1 + (code == "FT011")


@pytest.mark.parametrize("code", sorted([*UNSAFE_BYTES, *UNSAFE]))
def test_an_unsafe_fix_waits_for_the_users_word(code: str, tmp_path: Path) -> None:
    """Without it nothing happens, with it the finding is gone."""
    source = BROKEN / f"{code}.jsonl"
    assert code not in fix_file(source, tmp_path / "safe.jsonl").counts
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=True)
    assert result.counts.get(code) == 1
    assert code not in validate(result.output).summary.counts


def test_every_rule_that_promises_a_fix_for_records_has_one() -> None:
    """What the table says and what is there are the same."""
    for code in SAFE:
        assert find_rule(code).fix[0] == "safe"  # type: ignore[union-attr, index]
    for code in UNSAFE:
        assert find_rule(code).fix[0] == "unsafe"  # type: ignore[union-attr, index]


def test_a_good_file_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Byte for byte."""
    source = write(tmp_path / "good.jsonl", [*chats()])
    result = fix_file(source, tmp_path / "fixed.jsonl", unsafe=True)
    assert result.output.read_bytes() == source.read_bytes()
    assert (result.counts, result.dropped, result.sidecar, result.diff.read_bytes()) == ({}, 0, None, b"")


def test_the_manifest_names_both_hashes_and_the_sidecar_keeps_what_was_moved(tmp_path: Path) -> None:
    """Nothing is lost."""
    source = write(tmp_path / "extra.jsonl", [*chats(11), {**chats(12)[11], "id": 7}])
    result = fix_file(source, tmp_path / "fixed.jsonl")
    manifest = json.loads(result.manifest.read_text())
    assert manifest["input"]["sha256"] == sha256_of(source) and manifest["output"]["sha256"] == sha256_of(result.output)
    assert manifest["fixes"] == {"FT110": 1}
    assert result.sidecar is not None and json.loads(result.sidecar.read_text()) == {"line": 12, "id": 7}
    assert result.diff.read_bytes().startswith(b"@@ line 12 @@\n-{")


def test_an_array_becomes_lines(tmp_path: Path) -> None:
    """A JSON array and pretty-printed records are written one per line."""
    source = tmp_path / "array.jsonl"
    source.write_text(json.dumps(chats(), indent=1))
    assert validate(fix_file(source, tmp_path / "fixed.jsonl").output).ok
    spread = tmp_path / "spread.jsonl"
    spread.write_text("\n".join(json.dumps(row, indent=2) for row in chats()))
    assert validate(fix_file(spread, tmp_path / "fixed2.jsonl").output).ok


def test_what_is_ignored_is_not_mended(tmp_path: Path) -> None:
    """The settings count here, too."""
    result = fix_file(BROKEN / "FT812.jsonl", tmp_path / "fixed.jsonl", settings=CheckSettings(ignore=("FT812",)))
    assert result.counts == {}


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    """Not even when asked."""
    source = write(tmp_path / "good.jsonl", [*chats()])
    with pytest.raises(UsageError):
        fix_file(source, source)


def test_quarantine_sets_lines_aside(tmp_path: Path) -> None:
    """Both files together hold every line."""
    source = write(tmp_path / "all.jsonl", [*chats(5)])
    assert quarantine(source, {2, 4}, tmp_path / "good.jsonl", tmp_path / "bad.jsonl") == (3, 2)
    lines = source.read_bytes().splitlines()
    assert (tmp_path / "bad.jsonl").read_bytes().splitlines() == [lines[1], lines[3]]


def test_the_failing_lines_of_a_file_are_set_aside_and_the_rest_is_good(tmp_path: Path) -> None:
    """As ``--quarantine`` does it, beyond the findings that are listed."""
    rows = [row for row in chats(40) for _ in range(1)]
    source = write(tmp_path / "all.jsonl", [*rows[:20], b"{", {"messages": []}, *rows[20:]])
    lines = failing_lines(source, settings=CheckSettings(max_findings=1))
    assert lines == {21, 22}
    quarantine(source, lines, tmp_path / "good.jsonl", tmp_path / "bad.jsonl")
    assert validate(tmp_path / "good.jsonl").ok
