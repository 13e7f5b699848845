"""The first finding: told once, before the file is read through."""

from __future__ import annotations

from pathlib import Path

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.records import Finding
from ftpipe.stages.validate import validate
from tests.dataset.samples import chats, write

QUICK = CheckSettings(processes=1, engine="pure-python", near_duplicates=False)


def told(path: Path) -> list[str]:
    """What is told while the file is checked, in order: codes of findings, and a word for progress."""
    heard: list[str] = []

    def on_first(finding: Finding) -> None:
        heard.append(f"{finding.code} line {finding.line}")

    validate(path, settings=QUICK, on_first=on_first, on_progress=lambda _done, _total: heard.append("progress"))
    return heard


def test_a_fault_among_the_first_lines_is_told_before_any_progress(tmp_path: Path) -> None:
    """An error goes before a warning that stands earlier."""
    bad = {"messages": [{"role": "costumer", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}
    warned = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ask [Name]."}]}
    heard = told(write(tmp_path / "chat.jsonl", [warned, *chats(12), bad, bad]))
    assert heard == ["FT205 line 14", "progress"]


def test_a_fault_far_behind_is_told_when_its_part_is_read(tmp_path: Path) -> None:
    """The first look reaches a quarter of a megabyte."""
    long = [
        {"messages": [{"role": "user", "content": f"{i} " + "word " * 2_000}, {"role": "assistant", "content": "Yes."}]}
        for i in range(60)
    ]
    heard = told(write(tmp_path / "chat.jsonl", [*long, {"messages": []}]))
    assert heard == ["FT202 line 61", "progress"]


def test_a_clean_file_has_no_first_finding(tmp_path: Path) -> None:
    """And what only the whole file shows, such as its end, is left to the report."""
    assert told(write(tmp_path / "chat.jsonl", [*chats(12)])) == ["progress"]
