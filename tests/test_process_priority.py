"""The priority of processes that others should not wait for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil

from ftpipe.process_priority import lower_priority


def test_lower_priority_of_a_session() -> None:
    """On Linux also that of its group, without which a nice value means nothing to processes of other sessions."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        lower_priority(15, process.pid)
        assert psutil.Process(process.pid).nice() == 15
        group = Path(f"/proc/{process.pid}/autogroup")
        text = group.read_text(encoding="ascii") if group.exists() else ""
        assert not text or text.endswith("nice 15\n")
    finally:
        process.communicate()


def test_lower_priority_of_a_process_that_has_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    lower_priority(15, process.pid)
