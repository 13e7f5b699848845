"""One arm summed up: its scores, what it took in time and money, its confusions and fields."""

from __future__ import annotations

from collections.abc import Sequence

from ftpipe.evaluation.compare import Evidence
from ftpipe.evaluation.metrics.match import confusion, normalise
from ftpipe.evaluation.metrics.structure import field_hits
from ftpipe.evaluation.statistics import percentile
from ftpipe.records.evaluation import Answer, Arm, ArmResult, Task, TokenPrice, Usage


def arm_result(arm: Arm, evidence: Evidence, metrics: Sequence[str], task: Task, confidence: float) -> ArmResult:
    """Sum an arm up.

    Args:
        arm: Which one.
        evidence: The scored items.
        metrics: Names of metrics, the overall ones too.
        task: Says whether there are confusions or fields to show.
        confidence: Of the intervals.
    """
    answers = [answer for outcome in evidence.outcomes for answer in outcome.answers[arm.name]]
    return ArmResult(
        arm=arm,
        scores=tuple(evidence.level(arm.name, metric, confidence) for metric in metrics),
        usage=usage(answers, arm.price),
        confusion=_confusion(evidence, arm.name) if task is Task.LABEL else {},
        fields=_fields(evidence, arm.name) if task is Task.JSON else {},
    )


def usage(answers: Sequence[Answer], price: TokenPrice | None) -> Usage:
    """Requests, tokens, latency and cost of some answers; refused ones have no latency."""
    good = [answer for answer in answers if not answer.error]
    latencies = [answer.latency_s for answer in good]
    prompt = sum(answer.prompt_tokens for answer in good)
    completion = sum(answer.completion_tokens for answer in good)
    cost = (prompt * price.input + completion * price.output) / 1_000_000 if price else None
    return Usage(
        requests=len(answers),
        refused=len(answers) - len(good),
        reused=sum(answer.reused for answer in answers),
        prompt_tokens=prompt,
        completion_tokens=completion,
        latency_p50_s=percentile(latencies, 0.50) if good else None,
        latency_p95_s=percentile(latencies, 0.95) if good else None,
        cost=cost,
        cost_per_request=cost / len(good) if cost is not None and good else None,
        currency=price.currency if price else "USD",
    )


def _confusion(evidence: Evidence, arm: str) -> dict[str, dict[str, int]]:
    return confusion(
        [(normalise(outcome.item.expected), normalise(outcome.answers[arm][0].text)) for outcome in evidence.outcomes]
    )


def _fields(evidence: Evidence, arm: str) -> dict[str, float]:
    """Share of items that have each wanted top-level field right."""
    hits: dict[str, list[bool]] = {}
    for outcome in evidence.outcomes:
        for name, is_right in field_hits(outcome.item, outcome.answers[arm][0]).items():
            hits.setdefault(name, []).append(is_right)
    return {name: sum(values) / len(values) for name, values in hits.items()}
