"""Read the comparisons of shadow traffic from the server's database, and say what they show so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.errors import NotFoundError
from ftpipe.evaluation.sequential import (
    SequentialComparison,
    difference_of_scores,
    log_ratio,
    rate_of_disagreement,
    ratio_interval,
    rounded,
)
from ftpipe.evaluation.statistics import Interval, percentile
from ftpipe.records.evaluation import TokenPrice
from ftpipe.records.shadow import Estimate, Percentiles, ShadowMeasure, ShadowStatus
from ftpipe.tokenization import base_of

if TYPE_CHECKING:
    from ftpipe.server.storage import ShadowPairRow, ShadowResultRow

DEFAULT_MARGIN = 0.05
"""Largest difference that does not matter, unless the user says otherwise: five points."""


@dataclass
class _Outcomes:
    """The outcomes of a pair's mirrored chats, counted."""

    results: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    requests: set[str] = field(default_factory=set)
    disagreement: Counter[float] = field(default_factory=Counter)
    repeat_disagreement: Counter[float] = field(default_factory=Counter)
    extra_disagreement: Counter[float] = field(default_factory=Counter)
    score_difference: Counter[float] = field(default_factory=Counter)
    latency_ratio: Counter[float] = field(default_factory=Counter)
    scores: list[tuple[float, float]] = field(default_factory=list)
    old_seconds: list[float] = field(default_factory=list)
    repeat_seconds: list[float] = field(default_factory=list)
    new_seconds: list[float] = field(default_factory=list)
    old_tokens: list[int] = field(default_factory=list)
    new_tokens: list[int] = field(default_factory=list)
    new_cost: float = 0.0
    old_cost: float = 0.0

    def add(self, row: ShadowResultRow, old_price: TokenPrice | None) -> None:
        """Count one mirrored chat."""
        self.results[row.status] += 1
        self.new_cost += row.new_cost
        if row.agrees is None:
            return
        self.requests.add(row.request_digest)
        if old_price is not None and row.old_tokens:
            self.old_cost += old_price.cost(row.old_tokens["prompt"], row.old_tokens["completion"])
        if row.error is not None:
            self.errors[row.error] += 1
        self.disagreement[float(not row.agrees)] += 1
        if row.repeat_agrees is not None:
            self.repeat_disagreement[float(not row.repeat_agrees)] += 1
            self.extra_disagreement[float(row.repeat_agrees) - float(row.agrees)] += 1
        if row.old_score is not None and row.new_score is not None:
            self.scores.append((row.old_score, row.new_score))
            self.score_difference[rounded(row.new_score - row.old_score)] += 1
        self._add_latency(row)
        self.old_tokens += _completion_tokens(row.old_tokens)
        self.new_tokens += _completion_tokens(row.new_tokens)

    def _add_latency(self, row: ShadowResultRow) -> None:
        self.old_seconds.append(row.old_seconds)
        if row.new_seconds is None:
            return
        self.new_seconds.append(row.new_seconds)
        if row.repeat_seconds is not None:
            self.repeat_seconds.append(row.repeat_seconds)
        ratio = log_ratio(row.new_seconds, row.old_seconds if row.repeat_seconds is None else row.repeat_seconds)
        if ratio is not None:
            self.latency_ratio[ratio] += 1

    def measured(self) -> tuple[ShadowMeasure, Counter[float]]:
        """What a verdict is about, and its outcomes: scores say most, mere disagreement least."""
        if self.score_difference:
            return "score", self.score_difference
        if self.extra_disagreement:
            return "extra_disagreement", self.extra_disagreement
        return "disagreement", self.disagreement


def shadow_statuses(data_dir: Path, *, margin: float = DEFAULT_MARGIN) -> list[ShadowStatus]:
    """The comparisons of all owners and pairs of a server, which may run.

    Args:
        data_dir: The server's data folder.
        margin: Largest difference that does not matter.

    Raises:
        NotFoundError: There is no server's database in the folder.
        LocalStateError: The database cannot be read.
    """
    from ftpipe.server.storage.data_dir import DataDirectory
    from ftpipe.server.storage.database import open_store_read_only

    path = DataDirectory(data_dir.expanduser().absolute()).database
    if not path.exists():
        raise NotFoundError(f"no server has used {data_dir} yet", "start one with `ftpipe serve --shadow OLD=NEW`")
    store = open_store_read_only(path)
    try:
        with store.read() as tx:
            return [_status(pair, tx.shadow.results(pair.id), margin) for pair in tx.shadow.pairs()]
    finally:
        store.close()


def _status(pair: ShadowPairRow, rows: Iterable[ShadowResultRow], margin: float) -> ShadowStatus:
    outcomes = _Outcomes()
    old_price = _hosted_price(pair.old)
    for row in rows:
        outcomes.add(row, old_price)
    differences, rates = difference_of_scores(margin), rate_of_disagreement(margin)
    measure, counts = outcomes.measured()
    comparison = rates if measure == "disagreement" else differences
    old_scores, new_scores = zip(*outcomes.scores, strict=True) if outcomes.scores else ((), ())
    return ShadowStatus(
        owner=pair.owner,
        old=pair.old,
        new=pair.new,
        share=pair.share,
        started_at=pair.started_at,
        updated_at=pair.updated_at,
        chats=pair.chats,
        dropped=pair.dropped,
        unpaid=pair.unpaid,
        mirrored=outcomes.results["answered"] + outcomes.results["failed"],
        failed=outcomes.results["failed"],
        interrupted=outcomes.results["sent"],
        different_chats=len(outcomes.requests),
        errors=dict(outcomes.errors),
        measure=measure,
        margin=margin,
        verdict=comparison.verdict(counts),
        more_requests=comparison.more_requests(counts),
        agreement=_complement(rates, outcomes.disagreement),
        repeat_agreement=_complement(rates, outcomes.repeat_disagreement) if outcomes.repeat_disagreement else None,
        difference=None if measure == "disagreement" else _estimate(differences.interval(counts), counts),
        old_score=fmean(old_scores) if old_scores else None,
        new_score=fmean(new_scores) if new_scores else None,
        old_latency=_percentiles(outcomes.repeat_seconds or outcomes.old_seconds),
        new_latency=_percentiles(outcomes.new_seconds),
        latency_ratio=_estimate(ratio_interval(differences.interval(outcomes.latency_ratio)), outcomes.latency_ratio),
        old_tokens=fmean(outcomes.old_tokens) if outcomes.old_tokens else None,
        new_tokens=fmean(outcomes.new_tokens) if outcomes.new_tokens else None,
        new_cost=outcomes.new_cost,
        old_cost=None if old_price is None else outcomes.old_cost,
    )


def _hosted_price(model: str) -> TokenPrice | None:
    """OpenAI's price of a model that has a name of theirs; ``None`` if there is no such price."""
    base = base_of(model)
    return answer_price("openai", base, "base" if base == model else "tuned")


def _complement(rates: SequentialComparison, counts: Counter[float]) -> Estimate:
    """The rate of agreement from that of disagreement."""
    interval = rates.interval(counts)
    return _estimate(Interval(1 - interval.high, 1 - interval.value, 1 - interval.low), counts)


def _estimate(interval: Interval, counts: Counter[float]) -> Estimate:
    value = None if math.isnan(interval.value) else interval.value
    return Estimate(low=interval.low, value=value, high=interval.high, outcomes=counts.total())


def _percentiles(seconds: list[float]) -> Percentiles:
    if not seconds:
        return Percentiles(p50=None, p95=None)
    return Percentiles(p50=percentile(seconds, 0.5), p95=percentile(seconds, 0.95))


def _completion_tokens(tokens: dict[str, object]) -> Iterator[int]:
    value = tokens.get("completion")
    if isinstance(value, int):
        yield value
