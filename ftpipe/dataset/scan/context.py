"""What all files of one check have in common, and the callbacks for its progress and findings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ftpipe.dataset.check_settings import CheckSettings

if TYPE_CHECKING:
    from ftpipe.records import Finding

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
OnFinding: TypeAlias = "Callable[[Finding], None]"
OnRowTokens: TypeAlias = Callable[[int, int, int], None]
"""Called with a line, its tokens and its trained tokens."""


def ignore_progress(_done: int, _total: int) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class ScanObserver:
    """Callbacks of a check; each is optional."""

    on_progress: OnProgress = ignore_progress
    on_first_finding: OnFinding | None = None
    """Called once, as soon as the training file shows an error or a warning."""
    on_finding: OnFinding | None = None
    """Called with every finding once all are known, also with those that the report does not list."""
    on_row_tokens: OnRowTokens | None = None
    """Called with line, tokens and trained tokens of every record, in the order of the file."""


@dataclass(frozen=True, slots=True)
class ScanContext:
    """How the files of one check are checked."""

    target: str = "openai"
    """Whose rules apply: a profile's ``target``, for example ``openai``."""
    method: str | None = None
    """``None`` if the format of the file decides."""
    model: str = ""
    """Base model; decides encoding, token limit and shutdown date."""
    max_length: object = None
    """``max_length`` of the job, for local training; ``None`` for the default."""
    settings: CheckSettings = field(default_factory=CheckSettings)
    today: dt.date = field(default_factory=dt.date.today)
    observer: ScanObserver = field(default_factory=ScanObserver)
