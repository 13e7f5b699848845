"""Registered models as text: which loss is shown."""

from __future__ import annotations

import datetime as dt

from ftpipe.records import Checkpoint, Model, TrainingMetrics
from ftpipe.reports.models import lineage_lines, model_table

TODAY = dt.date(2026, 12, 20)
TRAIN_ONLY = TrainingMetrics(step=2, train_loss=2.971)
VALIDATED = TrainingMetrics(step=2, train_loss=2.971, valid_loss=0.2, full_valid_loss=0.097)


def model(metrics: TrainingMetrics | None) -> Model:
    checkpoints = [Checkpoint(id="c1", created_at=0, step=2, model="ft:m:ckpt", metrics=metrics)] if metrics else []
    return Model(
        id="ft:m", base="m", provider="local", endpoint="e", job_id="job", file_id="file", dataset_sha256="0" * 64,
        metrics=metrics, checkpoints=tuple(checkpoints), created_at=86_400,
    )  # fmt: skip


def test_lineage_lines_have_no_validation_loss_without_validation() -> None:
    """The training loss is not shown a second time as the validation loss."""
    assert lineage_lines(model(TRAIN_ONLY))[-1].split() == ["2", "2.9710", "–", "ft:m:ckpt"]
    assert lineage_lines(model(VALIDATED))[-1].split() == ["2", "2.9710", "0.0970", "ft:m:ckpt"]


def test_model_table_says_which_loss_it_is() -> None:
    rewarded = TrainingMetrics(step=2, train_loss=0.012, train_mean_reward=0.8)
    held_out = rewarded.model_copy(update={"full_valid_mean_reward": 0.7})
    shown = [VALIDATED, TRAIN_ONLY, None, rewarded, held_out]
    rows = model_table([model(metrics) for metrics in shown], today=TODAY)[1:]
    assert [row.split("1970-01-02")[1].split("unknown")[0].strip() for row in rows] == [
        *("0.097 valid", "2.971 train", "–", "0.800 reward", "0.700 reward"),
    ]
