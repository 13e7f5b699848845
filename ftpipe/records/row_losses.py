"""How hard each row of a dataset is for two models: the records of ``ftpipe losses``."""

from __future__ import annotations

from typing import Literal

from ftpipe.records.base import Record

RankBy = Literal["tuned", "base", "delta"]
"""By the baseline's loss, by the tuned model's, or by what the second has over the first."""


class RowLosses(Record):
    """One row under several models, as the endpoint answers."""

    line: int
    """1-based line in the file."""
    tokens: int
    """Its trained tokens: what the losses run over."""
    losses: tuple[float, ...]
    """Mean cross-entropy in nats per trained token, one for each model in the order of the request."""


class RankedRow(Record):
    """One row before and after tuning."""

    line: int
    tokens: int
    base_loss: float
    """Under the baseline, in nats per trained token."""
    tuned_loss: float
    """Under the tuned model."""
    prompt: str = ""
    """The last question, as one line of text."""
    completion: str = ""
    """What the row teaches."""
    rule_codes: tuple[str, ...] = ()
    """Codes of the dataset rules that the row violates."""

    @property
    def delta(self) -> float:
        """After minus before: what training did not learn, or unlearnt."""
        return self.tuned_loss - self.base_loss


class LossRanking(Record):
    """The rows of a dataset, ranked; the most suspicious are first."""

    id: str
    """``losses-<12 characters>``: the same data and models have the same one."""
    created_at: int
    """UTC Unix seconds."""
    data: str
    """File name of the rows."""
    data_sha256: str
    baseline: str
    model: str
    rank_by: RankBy
    rows: tuple[RankedRow, ...]

    @property
    def mean_base_loss(self) -> float:
        """The baseline's loss over all trained tokens."""
        return _mean([(row.base_loss, row.tokens) for row in self.rows])

    @property
    def mean_tuned_loss(self) -> float:
        """The tuned model's."""
        return _mean([(row.tuned_loss, row.tokens) for row in self.rows])


def _mean(weighed: list[tuple[float, int]]) -> float:
    return sum(value * weight for value, weight in weighed) / max(1, sum(weight for _, weight in weighed))
