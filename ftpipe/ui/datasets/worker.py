"""The process that checks or fixes a dataset for the page, so that the server stays small and answers meanwhile.

It reads one JSON object from its input, writes lines of progress, and at last one line with the result or the error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftpipe.dataset.check_settings import CheckSettings, settings_from
from ftpipe.dataset.fixes import fix_file
from ftpipe.dataset.rules import codes
from ftpipe.errors import FtpipeError
from ftpipe.stages.validate import ScanObserver, validate
from ftpipe.ui.datasets.check_result import CheckWriter

COMMAND = (sys.executable, "-c", "from ftpipe.ui.datasets.worker import main; main()")
PROGRESS_SECONDS = 0.3


def main() -> None:
    """Do what the input requests."""
    request = json.loads(sys.stdin.readline())
    try:
        result = run_task(request)
    except FtpipeError as exc:
        _send(error={"message": exc.message, "hint": exc.hint})
    except Exception as exc:  # noqa: BLE001 - the page shows it
        hint = "this is a bug in ftpipe; `ftpipe prepare` checks the same file in a terminal"
        _send(error={"message": f"the check failed: {type(exc).__name__}: {exc}", "hint": hint})
    else:
        _send(result=result)


def run_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Check or fix a dataset.

    Args:
        request: ``task``, ``output``, and the fields of ``CheckRequest``.

    Raises:
        FtpipeError: The file cannot be read, or a result cannot be written.
    """
    return _check(request) if request["task"] == "check" else _fix(request)


def _check(request: Mapping[str, Any]) -> dict[str, Any]:
    path, validation = Path(request["path"]), request.get("validation")
    with CheckWriter(Path(request["output"])) as writer:
        observer = ScanObserver(
            on_progress=_Progress(),
            on_finding=None if validation else writer.add_finding,
            on_row_tokens=None if validation else writer.add_row,
        )
        report = validate(
            path,
            target=request["target"],
            method=request.get("method"),
            model=request["model"],
            validation=Path(validation) if validation else None,
            settings=_settings(request),
            for_job=request.get("for_job", False),
            max_length=request.get("max_length"),
            observer=observer,
        )
        writer.set_report(report)
    return {"ok": report.ok}


def _fix(request: Mapping[str, Any]) -> dict[str, Any]:
    result = fix_file(
        Path(request["path"]),
        Path(request["output"]),
        unsafe=request.get("unsafe", False),
        settings=_settings(request),
        method=request.get("method"),
        force=True,
        target=request["target"],
        model=request["model"],
        max_length=request.get("max_length"),
    )
    return {"counts": result.counts, "dropped": result.dropped}


def _settings(request: Mapping[str, Any]) -> CheckSettings:
    return settings_from(request.get("checks", {}), codes())


class _Progress:
    """Sends how many bytes are done, a few times a second."""

    def __init__(self) -> None:
        self._sent_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = time.monotonic()
            _send(done=done, total=total)


def _send(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
