"""What is known about a file and its target before and after its lines were read; given to the rules."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from ftpipe.dataset.scan.statistics import DatasetStatistics

Layout = Literal["lines", "array", "pretty", "utf16", "binary"]


@dataclass(slots=True)
class FileContext:
    """One file under one target. The first part is known at the start, the second grows while reading."""

    name: str
    target: str
    method: str | None
    """As asked; ``None`` where the format decides."""
    model: str
    format: str
    layout: Layout = "lines"
    role: Literal["train", "validation"] = "train"
    today: dt.date = dt.date.min
    suffix: str = ".jsonl"
    bytes: int = 0
    settings: Any = None
    limit: int | None = None
    """Tokens per example that the target trains on."""
    has_bom: bool = False
    reserved: tuple[str, ...] = ()
    """Grader fields ``{{item.x}}`` that reinforcement rows must have."""

    examples: int = 0
    """Lines that are not blank."""
    shapes: Counter[str] = field(default_factory=Counter)
    """Shape → records of it."""
    with_images: int = 0
    habits: DatasetStatistics = field(default_factory=DatasetStatistics)
    not_checked: tuple[str, ...] = ()
    """Checks that were left out, each with the command that installs the missing package."""
    sampled: dict[str, Any] = field(default_factory=dict)
    """Figures that file rules need, by name."""
