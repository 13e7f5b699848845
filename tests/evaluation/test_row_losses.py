"""Rows are ranked by the losses that the endpoint returns; an endpoint without losses gets no request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from ftpipe.errors import InvalidResponseError, UsageError
from ftpipe.evaluation.row_losses import rank_rows
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.records.row_losses import LossRanking, RankBy, RowLosses
from tests.training.tiny_model import chat, write_rows

LOSSES = (RowLosses(line=1, tokens=3, losses=(2.0, 0.5)), RowLosses(line=2, tokens=1, losses=(1.0, 3.0)),
        RowLosses(line=3, tokens=4, losses=(5.0, 0.1)))  # fmt: skip


@dataclass
class FakeLossEndpoint:
    """An endpoint that always returns the same losses."""

    rows: Sequence[RowLosses] = LOSSES
    name: str = "local"
    requests: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def profile(self) -> Any:
        """The profile of that name."""
        return find_profile(self.name)

    @property
    def models(self) -> FakeLossEndpoint:
        """The endpoint itself."""
        return self

    def losses(self, path: Path, models: Sequence[str], *, on_rows: Callable[[int, int], None]) -> list[RowLosses]:
        """The losses."""
        self.requests.append(tuple(models))
        on_rows(6, 6)
        return list(self.rows)


def ranked(endpoint: FakeLossEndpoint, tmp_path: Path, **options: Any) -> LossRanking:
    """A file of three rows, ranked."""
    data = write_rows(tmp_path / "train.jsonl", [chat(f"ticket {n}", f"queue {n}") for n in (1, 2, 3)])
    return rank_rows(
        data, model="ft:x", baseline="x", provider=cast("Provider", endpoint), clock=lambda: 7.0, **options
    )


@pytest.mark.parametrize(("by", "order"), [("tuned", [2, 1, 3]), ("base", [3, 1, 2]), ("delta", [2, 1, 3])])
def test_rank_rows_sorts_by_key(tmp_path: Path, by: RankBy, order: list[int]) -> None:
    """By either loss or by their difference; with prompt and completion."""
    progress: list[tuple[int, int]] = []
    ranking = ranked(
        FakeLossEndpoint(),
        tmp_path,
        rank_by=by,
        rule_codes={2: ("FT801",)},
        on_progress=lambda *done: progress.append(done),
    )
    assert [row.line for row in ranking.rows] == order
    assert progress == [(6, 6)]
    second = next(row for row in ranking.rows if row.line == 2)
    assert (second.prompt, second.completion, second.rule_codes, second.delta) == (
        "ticket 2",
        "queue 2",
        ("FT801",),
        2.0,
    )


def test_mean_losses_are_weighted_by_tokens(tmp_path: Path) -> None:
    """As in training."""
    ranking = ranked(FakeLossEndpoint(), tmp_path)
    assert (ranking.mean_base_loss, ranking.mean_tuned_loss) == pytest.approx((27 / 8, 4.9 / 8))


def test_rank_rows_sends_nothing_to_a_hosted_provider(tmp_path: Path) -> None:
    endpoint = FakeLossEndpoint(name="openai")
    with pytest.raises(UsageError, match="OpenAI does not return losses"):
        ranked(endpoint, tmp_path)
    assert endpoint.requests == []
    with pytest.raises(InvalidResponseError):
        ranked(FakeLossEndpoint(rows=(RowLosses(line=1, tokens=1, losses=(1.0,)),)), tmp_path)
