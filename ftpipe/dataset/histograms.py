"""Distributions of tokens, turns and labels, made from the statistics of a scan for the HTML report."""

from __future__ import annotations

import math
from collections import Counter

from ftpipe.catalog.base_models import base_models
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.records import DatasetHistograms, HistogramBin

MAX_BINS = 24
MAX_TURN_BINS = 12
MAX_LABELS = 20


def build_histograms(statistics: ScanStatistics) -> DatasetHistograms:
    """The histograms of a file."""
    tokens, content = statistics.tokens, statistics.content
    labels = content.labels.most_common(MAX_LABELS) if content.are_labels else []
    limits = {base.example_tokens for base in base_models()} - {None}
    return DatasetHistograms(
        tokens=bins(tokens.totals),
        trained=bins(tokens.trained_totals),
        turns=bins(tokens.turns, max_bins=MAX_TURN_BINS),
        labels=tuple(HistogramBin(label=label, count=number) for label, number in labels),
        billable={limit: tokens.billable(limit) for limit in limits if limit is not None},
    )


def bins(counts: Counter[int], max_bins: int = MAX_BINS) -> tuple[HistogramBin, ...]:
    """At most ``max_bins`` bins of equal, round width; one more takes the values above the 99th percentile."""
    if not counts:
        return ()
    total, counted, top = counts.total(), 0, max(counts)
    for value in sorted(counts):
        counted += counts[value]
        if counted >= 0.99 * total:
            top = value
            break
    width = round_up(max(1, top + 1) / max_bins)
    grouped: Counter[int] = Counter()
    for value, number in counts.items():
        grouped[min(value // width, max_bins)] += number
    return tuple(
        HistogramBin(label=_label(index, width, max_bins), count=grouped[index])
        for index in range(min(grouped), max(grouped) + 1)
    )


def _label(index: int, width: int, max_bins: int) -> str:
    if index >= max_bins:
        return f"{index * width:,} and more"
    return f"{index * width:,}" if width == 1 else f"{index * width:,} to {(index + 1) * width - 1:,}"


def round_up(number: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    if number <= 1:
        return 1
    power = 10 ** math.floor(math.log10(number))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= number))
