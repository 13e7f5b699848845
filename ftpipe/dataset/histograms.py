"""The distributions of a dataset and the cost on every base model, for the report that people look at."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter

from ftpipe.catalog.base_models import base_models
from ftpipe.catalog.cost import EpochRange, epochs_range, estimate
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.scan.analyze import DatasetAnalysis
from ftpipe.records import CostEstimate, DatasetHistograms, HistogramBin, Method
from ftpipe.tokenization import encoding_for

BARS = 24
LABELS = 20


def build_histograms(
    found: DatasetAnalysis, *, method: Method, epochs: int | None, prices: PriceTable, today: dt.date
) -> DatasetHistograms:
    """The picture of a surveyed file."""
    histogram, content = found.part.tokens, found.part.content
    span = epochs_range(found.dataset.examples, epochs)
    labels = content.labels.most_common(LABELS) if content.are_labels else []
    return DatasetHistograms(
        tokens=bars(histogram.totals),
        trained=bars(histogram.answers),
        turns=bars(histogram.turns, most=12),
        labels=tuple(HistogramBin(label=label, count=number) for label, number in labels),
        costs=costs(found, method=method, span=span, prices=prices, today=today),
    )


def bars(counts: Counter[int], most: int = BARS) -> tuple[HistogramBin, ...]:
    """At most so many bars of equal, round width; the last one takes what is far out."""
    if not counts:
        return ()
    ordered = sorted(counts)
    total, seen, top = counts.total(), 0, ordered[-1]
    for value in ordered:
        seen += counts[value]
        if seen >= 0.99 * total:
            top = value
            break
    width = round_up(max(1, top + 1) / most)
    grouped: Counter[int] = Counter()
    for value, number in counts.items():
        grouped[min(value // width, most)] += number
    last = max(grouped)
    return tuple(
        HistogramBin(label=_name(place, width, most), count=grouped[place]) for place in range(min(grouped), last + 1)
    )


def _name(place: int, width: int, most: int) -> str:
    if place >= most:
        return f"{place * width:,} and more"
    return f"{place * width:,}" if width == 1 else f"{place * width:,} to {(place + 1) * width - 1:,}"


def round_up(number: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    if number <= 1:
        return 1
    power = 10 ** math.floor(math.log10(number))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= number))


def costs(
    found: DatasetAnalysis, *, method: Method, span: EpochRange, prices: PriceTable, today: dt.date
) -> tuple[CostEstimate, ...]:
    """The same job on each living base model with a price that counts alike; the cheapest first."""
    made = []
    target = found.statistics.file.target
    for base in base_models():
        row, day = prices.row(base.name), base.shutdown.get(target)
        gone = day is not None and day < today
        if (
            row is None
            or gone
            or method.value not in base.methods
            or encoding_for(base.name).name != found.encoding.name
        ):
            continue
        tokens = found.stats().model_copy(update={"billable": found.part.tokens.billable(base.example_tokens)})
        made.append(estimate(tokens, method=method, model=base.name, span=span, row=row, today=today))
    return tuple(sorted(made, key=lambda cost: (cost.expected or 0.0, cost.model)))
