"""What is known about a file before its records are read; rules about single records read it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.formats import METHOD_OF, Layout
from ftpipe.dataset.training_check import TrainingCheck, find_training_check


@dataclass(frozen=True)
class FileContext:
    """One file and what it is checked for."""

    name: str
    target: str
    method: str | None
    """As requested; ``None`` if the format decides, see ``resolved_method``."""
    model: str
    format: str
    layout: Layout = "lines"
    role: Literal["train", "validation"] = "train"
    today: dt.date = dt.date.min
    suffix: str = ".jsonl"
    size_bytes: int = 0
    settings: CheckSettings = field(default_factory=CheckSettings)
    token_limit: int | None = None
    """Tokens per example that the target trains on."""
    has_bom: bool = False
    legacy_shape: str = ""
    """Name of the old format; empty for the current ones."""
    grader_fields: tuple[str, ...] = ()
    """Fields ``{{item.x}}`` that graders read and reinforcement records must have."""
    for_job: bool = False
    """A job will be created from the file, so what only a job needs is checked, too."""
    has_validation: bool = False
    """A validation file goes with it."""

    @property
    def resolved_method(self) -> str:
        """The method that was requested, or the one that the format is for."""
        return self.method or METHOD_OF[self.format]

    @cached_property
    def training_check(self) -> TrainingCheck | None:
        """Renders like the trainer of the base model; ``None`` if the base model is not on this machine."""
        return find_training_check(self.model) if self.target == "local" else None
