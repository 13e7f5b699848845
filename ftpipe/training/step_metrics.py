"""What is measured at one step of a job, and the file of all steps."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True)
class StepMetrics:
    """Losses in nats per trained token, accuracies (0–1) and rewards at one step; ``None`` if not measured.

    Attributes:
        completion_tokens_mean: Tokens of a sampled answer.
        zero_std_fraction: Part of the prompts whose answers all got the same reward.
        kl: Divergence from the model before training, in nats per token.

    Source: OpenAI's guide to reinforcement fine-tuning, metrics of a job, read 2026-11-29; the last two names are
    ours.
    """

    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    train_mean_reward: float | None = None
    valid_mean_reward: float | None = None
    full_valid_mean_reward: float | None = None
    completion_tokens_mean: float | None = None
    zero_std_fraction: float | None = None
    kl: float | None = None

    def measured(self) -> dict[str, float | int]:
        """The values that were measured, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def metrics_csv(rows: Sequence[StepMetrics]) -> str:
    """``metrics.csv``; a cell that was not measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = _REWARD_CSV_COLUMNS if any(row.train_mean_reward is not None for row in rows) else _CSV_COLUMNS
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.measured().get(name, "") for name in columns.values()])
    return text.getvalue()
