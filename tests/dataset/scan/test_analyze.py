"""The first finding is reported once, before the file is read to its end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.errors import LocalStateError
from ftpipe.records import Finding
from ftpipe.stages.validate import ScanObserver, validate
from tests.dataset.samples import chats, write

QUICK = CheckSettings(processes=1, engine="pure-python", near_duplicates=False)


def events_of(path: Path) -> list[str]:
    """The calls of an observer in order: codes of findings, and a word for progress."""
    events: list[str] = []

    def on_first_finding(finding: Finding) -> None:
        events.append(f"{finding.code} line {finding.line}")

    observer = ScanObserver(lambda _done, _total: events.append("progress"), on_first_finding)
    validate(path, settings=QUICK, observer=observer)
    return events


def test_first_finding_in_head_is_reported_before_progress(tmp_path: Path) -> None:
    """An error precedes a warning on an earlier line."""
    bad = {"messages": [{"role": "costumer", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}
    warned = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ask [Name]."}]}
    events = events_of(write(tmp_path / "chat.jsonl", [warned, *chats(12), bad, bad]))
    assert events == ["FT205 line 14", "progress"]


def test_first_finding_after_head_is_reported_when_read(tmp_path: Path) -> None:
    """The head is a quarter of a megabyte."""
    long = [
        {"messages": [{"role": "user", "content": f"{i} " + "word " * 2_000}, {"role": "assistant", "content": "Yes."}]}
        for i in range(60)
    ]
    events = events_of(write(tmp_path / "chat.jsonl", [*long, {"messages": []}]))
    assert events == ["FT202 line 61", "progress"]


def test_first_finding_is_absent_in_clean_file(tmp_path: Path) -> None:
    """Findings about the whole file, such as its end, are only in the report."""
    assert events_of(write(tmp_path / "chat.jsonl", [*chats(12)])) == ["progress"]


def test_interrupt_does_not_wait_for_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread reads the whole file for it; a large one takes seconds."""
    release = threading.Event()

    def digest(_path: Path) -> str:
        release.wait(120)
        return ""

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ftpipe.dataset.scan.analyze.sha256_of_dataset", digest)
    try:
        with pytest.raises(KeyboardInterrupt):
            validate(write(tmp_path / "chat.jsonl", [*chats(12)]), settings=QUICK, observer=ScanObserver(interrupt))
        assert not release.is_set()
        assert any(thread.name == "digest" for thread in threading.enumerate())
    finally:
        release.set()


def test_unreadable_file_is_reported_by_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the thread is the error of the check."""

    def fail(_path: Path) -> str:
        raise LocalStateError("the disk is broken")

    monkeypatch.setattr("ftpipe.dataset.scan.analyze.sha256_of_dataset", fail)
    with pytest.raises(LocalStateError, match="the disk is broken"):
        validate(write(tmp_path / "chat.jsonl", [*chats(12)]), settings=QUICK)
