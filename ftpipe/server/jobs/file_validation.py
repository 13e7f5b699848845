"""Checking a job's files while it is ``validating_files``, in a thread of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.errors import FtpipeError, InterruptedRunError
from ftpipe.server.clock import today
from ftpipe.server.storage import JobRow

log = logging.getLogger("ftpipe.server.jobs")

MAX_NAMED = 20
"""Findings that an error message names; the rest is counted."""


@dataclass(frozen=True, slots=True)
class ValidationIssue:
    """Something in a file that training cannot live with."""

    text: str
    """Place and reason, for example ``line 3, messages[1].role: the role is missing``."""
    too_few: bool = False
    """True where the file has too few examples, which has a code of its own."""


@dataclass(frozen=True, slots=True)
class ValidationIssues:
    """What was found in one file: the first faults, and how many there are."""

    first: tuple[ValidationIssue, ...]
    count: int


ValidateFile = Callable[[Path, str, str, Callable[[], bool]], ValidationIssues]
"""Takes path, method, base model and a function that says whether to give up."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """How the check of a job's files ended; ``error`` is ``None`` where they are good."""

    error: dict[str, Any] | None


class FileValidator:
    """Checks one job at a time, so that large files do not starve the requests.

    Args:
        check_file: What looks into one file.
    """

    def __init__(self, check_file: ValidateFile) -> None:
        self._check_file = check_file
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="check")
        self._running: dict[str, Future[ValidationResult]] = {}
        self._closed = False

    def poll(self, job: JobRow, folder: Path) -> ValidationResult | None:
        """The verdict on a job's files, or ``None`` while they are being checked; the first look starts that."""
        future = self._running.get(job.id)
        if future is None:
            self._running[job.id] = self._pool.submit(self._check, job, folder)
            return None
        if not future.done():
            return None
        del self._running[job.id]
        fault = future.exception()
        if fault is None:
            return future.result()
        # A fault of ours must not end the thread that all jobs wait for.
        log.error("the check of job %s broke off", job.id, exc_info=fault)
        message = "The files could not be checked because of a fault in the server; its log says more"
        return ValidationResult({"code": "server_error", "message": message, "param": None})

    def close(self) -> None:
        """Give up what is running; it is done again when the server is back."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, job: JobRow, folder: Path) -> ValidationResult:
        names = ["training"] + (["validation"] if job.validation_file is not None else [])
        for name in names:
            error = self._check_one(job, folder / f"{name}.jsonl", f"{name}_file")
            if error is not None:
                return ValidationResult(error)
        return ValidationResult(None)

    def _check_one(self, job: JobRow, path: Path, param: str) -> dict[str, Any] | None:
        try:
            faults = self._check_file(path, job.method, job.base, lambda: self._closed)
        except (FtpipeError, OSError) as exc:
            log.error("the files of job %s could not be read: %s", job.id, exc)
            return {"code": f"invalid_{param}", "message": f"The file could not be read: {exc}", "param": param}
        return as_job_error(faults, param) if faults.count else None


def as_job_error(faults: ValidationIssues, param: str) -> dict[str, Any]:
    """Faults as the error of a job, with the lines named."""
    only_few = param == "training_file" and all(fault.too_few for fault in faults.first)
    named = [fault.text for fault in faults.first[:MAX_NAMED]]
    rest = faults.count - len(named)
    message = "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")
    code = "invalid_n_examples" if only_few else f"invalid_{param}"
    return {"code": code, "message": message, "param": param}


IGNORED_RULE_FAMILIES = ("FT7", "FT8", "FT9")
"""Families about cost, quality and privacy: advice for the owner, and no reason to refuse a job."""
TOO_FEW = "FT112"
VALIDATION = "validation"


def validate_training_file(path: Path, method: str, base: str, should_cancel: Callable[[], bool]) -> ValidationIssues:
    """What in a file keeps it from being trained on here: the errors of the target ``local``, in order of line.

    Args:
        path: The file; ``validation.jsonl`` is checked as a validation file.
        method: The job's method.
        base: The base model.
        should_cancel: Asked now and then whether to stop.

    Raises:
        InterruptedRunError: ``should_cancel`` said so.
        LocalStateError: The file cannot be read.
    """
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.dataset.scan.analyze import analyze_file
    from ftpipe.dataset.scan.context import ScanContext, ScanObserver

    def stop_if_cancelled(_done: int, _total: int) -> None:
        if should_cancel():
            message = "the server stops"
            raise InterruptedRunError(message)

    settings = CheckSettings(ignore=IGNORED_RULE_FAMILIES, near_duplicates=False, processes=1)
    context = ScanContext("local", method, base, settings, today(), ScanObserver(on_progress=stop_if_cancelled))
    analysis = analyze_file(path, context, role="validation" if path.stem == VALIDATION else "train")
    analysis.run_file_rules()
    tally = analysis.tally
    errors = [finding for finding in tally.all_retained() if finding.level == "error"]
    errors.sort(key=lambda item: (item.line or 0, item.code))
    counts = Counter({code: number for (code, level), number in tally.counts.items() if level == "error"})
    faults = tuple(ValidationIssue(_text(item.line, item.path, item.message), item.code == TOO_FEW) for item in errors)
    return ValidationIssues(faults, max(counts.total(), len(faults)))


def _text(line: int | None, path: str, message: str) -> str:
    where = ", ".join(piece for piece in (f"line {line}" if line else "", path) if piece)
    return f"{where}: {message}" if where else message
