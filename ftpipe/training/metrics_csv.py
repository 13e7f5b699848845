"""``metrics.csv``: what was measured at each step of a job."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ftpipe.atomic_files import write_bytes
from ftpipe.records.job import TrainingMetrics

_CSV_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
_REWARD_CSV_COLUMNS = {
    name: name
    for name in (
        *("step", "train_loss", "train_mean_reward", "valid_mean_reward", "full_valid_mean_reward"),
        *("completion_tokens_mean", "zero_std_fraction", "kl"),
    )
}
"""Source: the columns at Azure, Microsoft's fine-tuning skill, training-curves.md, read 2026-11-29; the last two are
ours."""


def write_metrics(path: Path, rows: Sequence[TrainingMetrics]) -> None:
    """Replace the file; a cell that was not measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = _REWARD_CSV_COLUMNS if any(row.train_mean_reward is not None for row in rows) else _CSV_COLUMNS
    writer.writerow(columns)
    for row in rows:
        measured = row.model_dump(exclude_none=True)
        writer.writerow([measured.get(name, "") for name in columns.values()])
    write_bytes(path, text.getvalue().encode())
