"""How often a sequential comparison sees two equal models differ, and how many requests a real difference takes.

``python -m tests.benchmarks.sequential`` looks after every request, for 1,000 simulated runs of each case. It takes
some minutes on one CPU core. A few runs of the same cases are in ``tests/evaluation/test_sequential.py``.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median, quantiles

from ftpipe.evaluation.sequential import (
    SequentialComparison,
    difference_of_scores,
    log_ratio,
    rate_of_disagreement,
)

RUNS, SEED = 1000, 13
MARGIN = 0.05
Draw = Callable[[random.Random], float]


@dataclass(frozen=True)
class Case:
    """A comparison with the outcomes of one request."""

    name: str
    comparison: SequentialComparison
    draw: Draw
    requests: int
    """After these a run ends."""
    looks_every: int = 1
    """Requests between two looks; more than 1 only where outcomes have many values."""
    tie: float | None = 0.0
    """Outcome that no bet on a difference wins, so that a look after it cannot see a new one."""


def right_or_wrong(only_new: float, only_old: float) -> Draw:
    """Scores of 0 and 1: how often only the new model is right, and only the old one."""

    def draw(generator: random.Random) -> float:
        point = generator.random()
        return 1.0 if point < only_new else -1.0 if point < only_new + only_old else 0.0

    return draw


def graded(generator: random.Random) -> float:
    """Scores of 0, 0.25, ... 1, independent of each other."""
    return (generator.choice((1, 2, 3, 4, 4)) - generator.choice((1, 2, 3, 4, 4))) / 4


def disagreement(rate: float) -> Draw:
    """Whether the answers differ."""
    return lambda generator: float(generator.random() < rate)


def latencies(generator: random.Random) -> float:
    """Latencies with a long tail."""
    return log_ratio(generator.lognormvariate(0, 0.5), generator.lognormvariate(0, 0.5)) or 0.0


SCORES, ANSWERS = difference_of_scores(MARGIN), rate_of_disagreement(MARGIN)
EQUAL = (
    Case("equal: both 80 % right, one alone in 20 % of requests", SCORES, right_or_wrong(0.10, 0.10), 10_000),
    Case("equal: one alone in 4 % of requests", SCORES, right_or_wrong(0.02, 0.02), 10_000),
    Case("equal: grades in quarters", SCORES, graded, 2000),
    Case("answers differ in 5 %, as many as do not matter", ANSWERS, disagreement(0.05), 10_000),
    Case("equal: latencies with a long tail", SCORES, latencies, 2000, looks_every=20, tie=None),
)
DIFFERENT = (
    Case("80 % to 75 %: 5 % better, 10 % worse", SCORES, right_or_wrong(0.05, 0.10), 20_000),
    Case("80 % to 75 %: 10 % better, 15 % worse", SCORES, right_or_wrong(0.10, 0.15), 20_000),
    Case("80 % to 85 %: 10 % better, 5 % worse", SCORES, right_or_wrong(0.10, 0.05), 20_000),
    Case("disagrees in 8 %, the old one with itself in 3 %", SCORES, right_or_wrong(0.03, 0.08), 20_000),
    Case("answers differ in 10 %, five points too many", ANSWERS, disagreement(0.10), 20_000),
)
SIMILAR = (
    Case("no gap, one alone in 10 % of requests", SCORES, right_or_wrong(0.05, 0.05), 20_000),
    Case("no gap, one alone in 20 % of requests", SCORES, right_or_wrong(0.10, 0.10), 20_000),
    Case("answers differ in 1 %", ANSWERS, disagreement(0.01), 20_000),
    Case("answers never differ", ANSWERS, disagreement(0.0), 20_000),
)


def without_equivalence(case: Case) -> Case:
    """The case with verdicts of a difference only, so that no other verdict hides one."""
    return replace(case, comparison=replace(case.comparison, similar=(1.0, -1.0)))


def first_verdict(case: Case, seed: int, skip: float | None = None) -> tuple[int, str] | None:
    """The number of requests until the first verdict, and which; ``None`` if the run ends without one.

    Args:
        case: What is drawn and compared.
        seed: Of the run.
        skip: Outcome after which no look is needed.
    """
    generator = random.Random(seed)
    counts: Counter[float] = Counter()
    for request in range(1, case.requests + 1):
        outcome = case.draw(generator)
        counts[outcome] += 1
        if outcome != skip and request % case.looks_every == 0:
            verdict = case.comparison.verdict(counts)
            if verdict != "undecided":
                return request, verdict
    return None


def false_alarms(case: Case, runs: int, seed: int = SEED) -> int:
    """Runs in which equal models were said to differ, at any of the looks."""
    unmasked = without_equivalence(case)
    return sum(first_verdict(unmasked, seed * 1_000_003 + run, case.tie) is not None for run in range(runs))


def requests_to_verdict(case: Case, runs: int, seed: int = SEED) -> list[tuple[int, str]]:
    """The first verdict of each run that has one."""
    found = (first_verdict(case, seed * 1_000_003 + run) for run in range(runs))
    return [verdict for verdict in found if verdict is not None]


def main() -> None:
    """Print one line for each case."""
    for case in EQUAL:
        alarms = false_alarms(case, RUNS)
        write(f"{case.name}: {alarms} of {RUNS} runs of {case.requests:,} requests ever see a difference")
    for case in (*DIFFERENT, *SIMILAR):
        verdicts = requests_to_verdict(case, RUNS)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(kind for _, kind in verdicts).most_common())
        needed = [requests for requests, _ in verdicts]
        typical, most = median(needed), quantiles(needed, n=10)[-1]
        write(f"{case.name}: median {typical:,.0f} requests, 90 % within {most:,.0f}; {kinds}")


def write(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
