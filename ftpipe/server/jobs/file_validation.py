"""Validate a job's files while its status is ``validating_files``, in a thread."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftpipe.errors import FtpipeError, InterruptedRunError
from ftpipe.server.clock import today
from ftpipe.server.storage import JobRow
from ftpipe.training.job_directory import JobDirectory

log = logging.getLogger("ftpipe.server.jobs")

MAX_NAMED_ISSUES = 20
"""Issues that an error message names; the rest is counted."""
IGNORED_RULE_FAMILIES = ("FT7", "FT8", "FT9")
"""Families about cost, quality and privacy: advice for the owner, not a reason to refuse a job."""
TOO_FEW_EXAMPLES = "FT112"


@dataclass(frozen=True, slots=True)
class ValidationIssue:
    """Something in a file that makes training impossible."""

    text: str
    """Position and reason, for example ``line 3, messages[1].role: the role is missing``."""
    too_few: bool = False
    """True if the file has too few examples, which has an error code for itself."""


@dataclass(frozen=True, slots=True)
class ValidationIssues:
    """The first issues of one file, and how many there are."""

    first: tuple[ValidationIssue, ...]
    count: int


Role = Literal["train", "validation"]
ValidateFile = Callable[[Path, str, str, Callable[[], bool], Role], ValidationIssues]
"""Takes path, method, base model, a function that says whether to stop, and the role (``train``, ``validation``)."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """How the validation of a job's files ended; ``error`` is ``None`` if they are valid."""

    error: dict[str, Any] | None


class FileValidator:
    """Validates one job at a time, so that large files do not slow down the requests.

    Args:
        validate_file: Validates one file.
    """

    def __init__(self, validate_file: ValidateFile) -> None:
        self._validate_file = validate_file
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="validation")
        self._running: dict[str, Future[ValidationResult]] = {}
        self._closed = False

    def poll(self, job: JobRow, directory: JobDirectory) -> ValidationResult | None:
        """The result for a job, or ``None`` while its files are being validated; the first call starts that."""
        future = self._running.get(job.id)
        if future is None:
            self._running[job.id] = self._pool.submit(self._validate, job, directory)
            return None
        if not future.done():
            return None
        del self._running[job.id]
        exception = future.exception()
        if exception is None:
            return future.result()
        # An internal error must not end the thread that all jobs wait for.
        log.error("the validation of job %s failed", job.id, exc_info=exception)
        message = "The files could not be validated because of an internal error; see the server's log"
        return ValidationResult({"code": "server_error", "message": message, "param": None})

    def close(self) -> None:
        """Stop the running validation; it starts again when the server is back."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _validate(self, job: JobRow, directory: JobDirectory) -> ValidationResult:
        error = self._validate_one(job, directory.training_file, "train", "training_file")
        if error is None and job.validation_file is not None:
            error = self._validate_one(job, directory.validation_file, "validation", "validation_file")
        return ValidationResult(error)

    def _validate_one(self, job: JobRow, path: Path, role: Role, param: str) -> dict[str, Any] | None:
        try:
            issues = self._validate_file(path, job.method, job.base, lambda: self._closed, role)
        except (FtpipeError, OSError) as exc:
            log.error("the files of job %s could not be read: %s", job.id, exc)
            return {"code": f"invalid_{param}", "message": f"The file could not be read: {exc}", "param": param}
        return as_job_error(issues, param) if issues.count else None


def as_job_error(issues: ValidationIssues, param: str) -> dict[str, Any]:
    """The error of a job, which names the lines of its issues."""
    only_too_few = param == "training_file" and all(issue.too_few for issue in issues.first)
    named = [issue.text for issue in issues.first[:MAX_NAMED_ISSUES]]
    rest = issues.count - len(named)
    message = "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")
    code = "invalid_n_examples" if only_too_few else f"invalid_{param}"
    return {"code": code, "message": message, "param": param}


def validate_training_file(
    path: Path, method: str, base_model: str, should_cancel: Callable[[], bool], role: Role
) -> ValidationIssues:
    """The errors for the target ``local``, in order of line.

    Args:
        path: The file.
        method: The job's method.
        base_model: The base model.
        should_cancel: Called from time to time; true stops the validation.
        role: ``train`` or ``validation``.

    Raises:
        InterruptedRunError: ``should_cancel`` returned true.
        LocalStateError: The file cannot be read.
    """
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.dataset.scan.analyze import analyze_file
    from ftpipe.dataset.scan.context import ScanContext, ScanObserver

    def stop_if_cancelled(_done: int, _total: int) -> None:
        if should_cancel():
            message = "the server is stopping"
            raise InterruptedRunError(message)

    settings = CheckSettings(ignore=IGNORED_RULE_FAMILIES, near_duplicates=False, processes=1)
    context = ScanContext("local", method, base_model, settings, today(), ScanObserver(on_progress=stop_if_cancelled))
    analysis = analyze_file(path, context, role=role)
    analysis.run_file_rules()
    tally = analysis.tally
    errors = [finding for finding in tally.all_retained() if finding.level == "error"]
    errors.sort(key=lambda item: (item.line or 0, item.code))
    counts = Counter({code: number for (code, level), number in tally.counts.items() if level == "error"})
    issues = tuple(
        ValidationIssue(_issue_text(item.line, item.path, item.message), item.code == TOO_FEW_EXAMPLES)
        for item in errors
    )
    return ValidationIssues(issues, max(counts.total(), len(issues)))


def _issue_text(line: int | None, path: str, message: str) -> str:
    position = ", ".join(part for part in (f"line {line}" if line else "", path) if part)
    return f"{position}: {message}" if position else message
