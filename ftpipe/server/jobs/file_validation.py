"""Validate a job's files; run as a process of its own by ``validation_process``.

Its arguments are an output file, the limits of memory and of processor time, method, base model, hyperparameters as
JSON, and one or two files. It writes the error of the job to the output file as JSON; an empty object if the files are
valid. If the job skips bad rows, they are no error, and are written to ``bad_rows.json`` for the trainer.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftpipe.atomic_files import write_json
from ftpipe.errors import FtpipeError
from ftpipe.server.clock import today
from ftpipe.training.batching import write_bad_rows
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE, JobDirectory

MAX_NAMED_ISSUES = 20
"""Issues that an error message names; the rest is counted."""
IGNORED_RULE_FAMILIES = ("FT7", "FT8", "FT9")
"""Families about cost, quality and privacy: advice for the owner, not a reason to refuse a job."""
TOO_FEW_EXAMPLES = "FT112"
"""The rule whose finding has an error code for itself in the API."""


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
    bad_rows: Mapping[int, str] = field(default_factory=dict)
    """Line → reason of the rows that the job leaves out; none of them counts as an issue."""


Role = Literal["train", "validation"]


def validate_job_files(
    training_file: Path, validation_file: Path | None, method: str, base: str, hyperparameters: Mapping[str, Any]
) -> dict[str, Any]:
    """What is wrong with the files of a job, as the error of the job; empty if they are valid.

    If the hyperparameters say to skip bad rows, these are written to the job's directory.

    Raises:
        LocalStateError: A file cannot be read.
    """
    files: list[tuple[Path | None, Role, str]] = [
        (training_file, "train", "training_file"),
        (validation_file, "validation", "validation_file"),
    ]
    skip_bad_rows = hyperparameters.get("skip_bad_rows") is True
    bad_rows: dict[str, Mapping[int, str]] = {}
    for path, role, param in files:
        if path is None:
            continue
        try:
            issues = validate_training_file(path, method, base, role, skip_bad_rows=skip_bad_rows)
        except (FtpipeError, OSError) as exc:
            return {"code": f"invalid_{param}", "message": f"The file could not be read: {exc}", "param": param}
        if issues.count:
            return as_job_error(issues, param)
        bad_rows[param.removesuffix("_file")] = issues.bad_rows
    if skip_bad_rows:
        write_bad_rows(JobDirectory(training_file.parent).bad_rows_file, bad_rows)
    return {}


def as_job_error(issues: ValidationIssues, param: str) -> dict[str, Any]:
    """The error of a job, which names the lines of its issues."""
    only_too_few = param == "training_file" and all(issue.too_few for issue in issues.first)
    named = [issue.text for issue in issues.first[:MAX_NAMED_ISSUES]]
    rest = issues.count - len(named)
    message = "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")
    code = "invalid_n_examples" if only_too_few else f"invalid_{param}"
    return {"code": code, "message": message, "param": param}


def validate_training_file(
    path: Path, method: str, base_model: str, role: Role, *, skip_bad_rows: bool = False
) -> ValidationIssues:
    """The errors for the target ``local``, in order of line.

    Args:
        path: The file.
        method: The job's method.
        base_model: The base model.
        role: ``train`` or ``validation``.
        skip_bad_rows: Return rows with errors as ``bad_rows`` instead.

    Raises:
        LocalStateError: The file cannot be read.
    """
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.dataset.rules import names_of_row_rules
    from ftpipe.dataset.scan.analyze import analyze_file
    from ftpipe.dataset.scan.context import ScanContext

    settings = CheckSettings(ignore=IGNORED_RULE_FAMILIES, near_duplicates=False, processes=1)
    context = ScanContext("local", method, base_model, settings=settings, today=today())
    analysis = analyze_file(path, context, role=role, collect_lines=skip_bad_rows)
    analysis.run_file_rules()
    tally = analysis.tally
    skipped_codes = names_of_row_rules() if skip_bad_rows else {}
    errors = [item for item in tally.all_retained() if item.level == "error" and item.code not in skipped_codes]
    errors.sort(key=lambda item: (item.line or 0, item.code))
    counts = Counter(
        {code: n for (code, level), n in tally.counts.items() if level == "error" and code not in skipped_codes}
    )
    issues = tuple(
        ValidationIssue(_issue_text(item.line, item.path, item.message), item.code == TOO_FEW_EXAMPLES)
        for item in errors
    )
    bad_rows = {
        line: f"{code} {skipped_codes[code]}"
        for code, lines in (tally.error_lines or {}).items()
        if code in skipped_codes
        for line in lines
    }
    return ValidationIssues(issues, max(counts.total(), len(issues)), bad_rows)


def _issue_text(line: int | None, path: str, message: str) -> str:
    position = ", ".join(part for part in (f"line {line}" if line else "", path) if part)
    return f"{position}: {message}" if position else message


def main(arguments: list[str]) -> None:
    """Validate the files of one job."""
    output, max_memory_bytes, max_cpu_seconds, method, base, hyperparameters, training_file, *rest = arguments
    limit_process(int(max_memory_bytes), int(max_cpu_seconds))
    try:
        validation_file = Path(rest[0]) if rest else None
        error = validate_job_files(Path(training_file), validation_file, method, base, json.loads(hyperparameters))
    except MemoryError:
        sys.exit(OUT_OF_MEMORY_EXIT_CODE)
    write_json(Path(output), error, mode=0o600)


def limit_process(max_memory_bytes: int, max_cpu_seconds: int) -> None:
    """Limit this process, also for the case that the server is killed and cannot watch it."""
    for name, limit in ((resource.RLIMIT_AS, max_memory_bytes), (resource.RLIMIT_CPU, max_cpu_seconds)):
        with suppress(OSError, ValueError):  # a system that does not have this limit
            resource.setrlimit(name, (limit, limit))
    with suppress(OSError):  # not Linux
        # If memory runs out, the system ends this process, and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
