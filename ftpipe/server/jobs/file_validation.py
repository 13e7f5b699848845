"""Validate a job's files; run as a process of its own by ``validation_process``.

Its arguments are an output file, the limits of memory and of processor time, method, base model, and one or two files.
It writes the error of the job to the output file as JSON; an empty object if the files are valid.
"""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftpipe.atomic_files import write_json
from ftpipe.errors import FtpipeError
from ftpipe.server.clock import today
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE

MAX_NAMED_ISSUES = 20
"""Issues that an error message names; the rest is counted."""
IGNORED_RULE_FAMILIES = ("FT7", "FT8", "FT9")
"""Families about cost, quality and privacy: advice for the owner, not a reason to refuse a job."""
NICE = 5
"""Requests come first if both need the processor."""
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


def validate_job_files(training_file: Path, validation_file: Path | None, method: str, base: str) -> dict[str, Any]:
    """What is wrong with the files of a job, as the error of the job; empty if they are valid.

    Raises:
        LocalStateError: A file cannot be read.
    """
    files: list[tuple[Path | None, Role, str]] = [
        (training_file, "train", "training_file"),
        (validation_file, "validation", "validation_file"),
    ]
    for path, role, param in files:
        if path is None:
            continue
        try:
            issues = validate_training_file(path, method, base, role)
        except (FtpipeError, OSError) as exc:
            return {"code": f"invalid_{param}", "message": f"The file could not be read: {exc}", "param": param}
        if issues.count:
            return as_job_error(issues, param)
    return {}


def as_job_error(issues: ValidationIssues, param: str) -> dict[str, Any]:
    """The error of a job, which names the lines of its issues."""
    only_too_few = param == "training_file" and all(issue.too_few for issue in issues.first)
    named = [issue.text for issue in issues.first[:MAX_NAMED_ISSUES]]
    rest = issues.count - len(named)
    message = "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")
    code = "invalid_n_examples" if only_too_few else f"invalid_{param}"
    return {"code": code, "message": message, "param": param}


def validate_training_file(path: Path, method: str, base_model: str, role: Role) -> ValidationIssues:
    """The errors for the target ``local``, in order of line.

    Args:
        path: The file.
        method: The job's method.
        base_model: The base model.
        role: ``train`` or ``validation``.

    Raises:
        LocalStateError: The file cannot be read.
    """
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.dataset.scan.analyze import analyze_file
    from ftpipe.dataset.scan.context import ScanContext

    settings = CheckSettings(ignore=IGNORED_RULE_FAMILIES, near_duplicates=False, processes=1)
    context = ScanContext("local", method, base_model, settings, today())
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


def main(arguments: list[str]) -> None:
    """Validate the files of one job."""
    output, max_memory_bytes, max_cpu_seconds, method, base, training_file, *rest = arguments
    _limit_process(int(max_memory_bytes), int(max_cpu_seconds))
    try:
        error = validate_job_files(Path(training_file), Path(rest[0]) if rest else None, method, base)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY_EXIT_CODE)
    write_json(Path(output), error, mode=0o600)


def _limit_process(max_memory_bytes: int, max_cpu_seconds: int) -> None:
    """Limit this process, also for the case that the server is killed and cannot watch it."""
    for name, limit in ((resource.RLIMIT_AS, max_memory_bytes), (resource.RLIMIT_CPU, max_cpu_seconds)):
        with suppress(OSError, ValueError):  # a system that does not have this limit
            resource.setrlimit(name, (limit, limit))
    os.nice(NICE)
    with suppress(OSError):  # not Linux
        # If memory runs out, the system ends this process, and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
