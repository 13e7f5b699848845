"""Completion in shells is click's own: commands, options and choices, although commands are imported late."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from ftpipe.cli import root


@pytest.mark.parametrize(
    ("words", "written", "completed"),
    [
        ([], "tra", "train"),
        (["models"], "ex", "export"),
        (["train"], "--epo", "--epochs"),
        (["prepare", "--output-format"], "sar", "sarif"),
    ],
)
def test_completion(words: list[str], written: str, completed: str) -> None:
    found = ShellComplete(root, {}, "ftpipe", "_FTPIPE_COMPLETE").get_completions(words, written)
    assert [item.value for item in found] == [completed]
