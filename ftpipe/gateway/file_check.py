"""Checks and counts the files of one job for another host, in a process with limits; the report is left for the server.

::

    python -m ftpipe.gateway.file_check CONTEXT OUTPUT MEMORY SECONDS METHOD BASE HYPERPARAMETERS FILE [VALIDATION]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import write_bytes, write_json
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.errors import FtpipeError
from ftpipe.records import Report
from ftpipe.server.jobs.file_validation import (
    IGNORED_RULE_FAMILIES,
    TOO_FEW_EXAMPLES,
    ValidationIssue,
    ValidationIssues,
    as_job_error,
    limit_process,
)
from ftpipe.stages.count import count
from ftpipe.stages.validate import blocking_errors, validate
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE

REPORT_FILE = "report.json"
"""In the job's directory."""


def check_command(target: str, prices: Mapping[str, Any]) -> tuple[str, ...]:
    """The command of the process, to which ``ValidationProcess`` adds the arguments of a job.

    Args:
        target: Whose dataset rules apply.
        prices: The user's price rows.
    """
    context = json.dumps({"target": target, "prices": dict(prices)}, default=str)
    return (sys.executable, "-m", "ftpipe.gateway.file_check", context)


def check_job_files(
    target: str,
    prices: Mapping[str, Any],
    method: str,
    base: str,
    hyperparameters: Mapping[str, Any],
    training_file: Path,
    validation_file: Path | None,
) -> Report:
    """The report of a job's files, with the cost of the job.

    Raises:
        FtpipeError: A file cannot be read, or the hyperparameters have no cost.
    """
    settings = CheckSettings(ignore=IGNORED_RULE_FAMILIES, near_duplicates=False, processes=1)
    report = validate(
        training_file,
        target=target,
        method=method,
        model=base,
        validation=validation_file,
        settings=settings,
        for_job=True,
    )
    epochs = hyperparameters.get("n_epochs", "auto")
    return count(
        report,
        model=base,
        epochs=None if epochs == "auto" else int(epochs),
        prices=PriceTable.load(prices, target=target),
        settings=settings,
    )


def job_error(report: Report) -> dict[str, Any]:
    """What is wrong with the files, as the error of a job; empty if they are valid."""
    errors = blocking_errors(report)
    if not errors:
        return {}
    issues = tuple(
        ValidationIssue(
            f"line {error.line}: {error.message}" if error.line else error.message, error.code == TOO_FEW_EXAMPLES
        )
        for error in errors
    )
    in_validation = report.validation is not None and errors[0].file == report.validation.path.name
    param = "validation_file" if in_validation else "training_file"
    return as_job_error(ValidationIssues(issues, max(report.summary.errors, len(issues))), param)


def main(arguments: list[str]) -> None:
    """Check the files of one job."""
    context, output, max_memory_bytes, max_cpu_seconds, method, base, hyperparameters, training_file, *rest = arguments
    limit_process(int(max_memory_bytes), int(max_cpu_seconds))
    fields = json.loads(context)
    try:
        report = check_job_files(
            fields["target"],
            fields["prices"],
            method,
            base,
            json.loads(hyperparameters),
            Path(training_file),
            Path(rest[0]) if rest else None,
        )
        write_bytes(Path(training_file).with_name(REPORT_FILE), report.model_dump_json().encode(), mode=0o600)
        error = job_error(report)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY_EXIT_CODE)
    except (FtpipeError, OSError) as exc:
        error = {"code": "invalid_training_file", "message": f"The files could not be checked: {exc}", "param": None}
    write_json(Path(output), error, mode=0o600)


if __name__ == "__main__":
    main(sys.argv[1:])
