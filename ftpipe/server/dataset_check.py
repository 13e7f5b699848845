"""The one place where the server talks to ``ftpipe.dataset`` about the files of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ftpipe.errors import InterruptedRunError
from ftpipe.server.checking import ValidationIssue, ValidationIssues
from ftpipe.server.clock import today

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
    from ftpipe.dataset.settings import CheckSettings
    from ftpipe.dataset.survey import analyze_file, run_file_rules

    def look_up(_done: int, _total: int) -> None:
        if should_cancel():
            message = "the server stops"
            raise InterruptedRunError(message)

    found = analyze_file(
        path,
        target="local",
        method=method,
        model=base,
        settings=CheckSettings(ignore=IGNORED_RULE_FAMILIES, near_duplicates=False, processes=1),
        today=today(),
        role="validation" if path.stem == VALIDATION else "train",
        on_progress=look_up,
    )
    run_file_rules(found)
    tally = found.part.tally
    errors = [item for kept in tally.kept.values() for item in kept if item.level == "error"]
    errors.sort(key=lambda item: (item.line or 0, item.code))
    counts = Counter({code: number for (code, level), number in tally.counts.items() if level == "error"})
    faults = tuple(ValidationIssue(_text(item.line, item.path, item.message), item.code == TOO_FEW) for item in errors)
    return ValidationIssues(faults, max(counts.total(), len(faults)))


def _text(line: int | None, path: str, message: str) -> str:
    where = ", ".join(piece for piece in (f"line {line}" if line else "", path) if piece)
    return f"{where}: {message}" if where else message
