"""Conditions for continuous integration, such as ``exact>=+0.03@95%``, read without evaluating anything.

``METRIC >= [+|-]NUMBER[%] [@ CONFIDENCE%]``: with a sign the *gain* over the baseline has to reach the number, without
one the challenger's own *score*. It is the lower end of the interval that has to reach it, not the mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftpipe.errors import UsageError
from ftpipe.evaluation.compare import Evidence
from ftpipe.evaluation.metrics import MACRO_F1
from ftpipe.records.evaluation import Evaluation, GateResult, Task

_NUMBER = r"\d{1,3}(?:\.\d{1,6})?"
_CONDITION = re.compile(
    rf"\s*(?P<metric>[a-z][a-z0-9_]{{0,40}})\s*(?P<relation>>=|>)\s*(?P<sign>[+-]?)(?P<number>{_NUMBER})(?P<percent>%?)"
    rf"\s*(?:@\s*(?P<confidence>{_NUMBER})\s*%?\s*)?",
    re.ASCII,
)
DEFAULT_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gate:
    """One condition."""

    text: str
    metric: str
    threshold: float
    is_gain: bool
    is_strict: bool
    confidence: float


def parse_gates(text: str) -> list[Gate]:
    """The conditions of one text, separated by commas.

    Raises:
        UsageError: A condition is not of the form, or its numbers are out of range.
    """
    return [_parse(part) for part in text.split(",")]


def _parse(text: str) -> Gate:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(
            f"the gate {text.strip()[:80]!r} cannot be read",
            "write it as METRIC>=+GAIN@CONFIDENCE%, for example exact>=+0.03@95%, or METRIC>=SCORE",
        )
    threshold = float(found["number"]) / (100 if found["percent"] else 1)
    confidence = float(found["confidence"]) if found["confidence"] else DEFAULT_CONFIDENCE
    confidence = confidence / 100 if confidence > 1 else confidence
    if threshold > 1 or not 0.5 <= confidence < 1:
        raise UsageError(
            f"the gate {text.strip()!r} is out of range",
            "scores and gains are shares from 0 to 1 (or percent with %), confidences from 50% to below 100%",
        )
    return Gate(
        text=text.strip(),
        metric=found["metric"],
        threshold=-threshold if found["sign"] == "-" else threshold,
        is_gain=bool(found["sign"]),
        is_strict=found["relation"] == ">",
        confidence=confidence,
    )


def check_gates(
    evaluation: Evaluation, evidence: Evidence, gates: list[Gate], *, max_regressions: int | None = None
) -> tuple[GateResult, ...]:
    """Check every condition for every candidate.

    Raises:
        UsageError: A condition names a metric that was not taken.
    """
    results = [_check(evaluation, evidence, gate, name) for gate in gates for name in evaluation.candidates]
    if max_regressions is not None:
        results += [_regressions(evaluation, name, max_regressions) for name in evaluation.candidates]
    return tuple(results)


def _check(evaluation: Evaluation, evidence: Evidence, gate: Gate, challenger: str) -> GateResult:
    taken = set(evidence.is_binary) | ({MACRO_F1} if evaluation.task is Task.LABEL else set())
    if gate.metric not in taken:
        raise UsageError(
            f"the gate {gate.text!r} asks for {gate.metric}, which was not measured",
            f"measured were {', '.join(sorted(taken))}; --metric adds others",
        )
    if gate.is_gain:
        interval = evidence.difference(evaluation.baseline, challenger, gate.metric, gate.confidence).interval
        low, value, word = interval.low, interval.value, f"gain over {evaluation.baseline}"
    else:
        score = evidence.arm_score(challenger, gate.metric, gate.confidence)
        low, value, word = score.low, score.value, "score"
    # One part in a billion is for the sums of floating point; no condition is met by it that is not met on paper.
    passed = low > gate.threshold + 1e-9 if gate.is_strict else low >= gate.threshold - 1e-9
    sign = "+" if gate.is_gain else ""
    explanation = (
        f"{challenger}: {word} on {gate.metric} is {value:{sign}.4f}, and at least {low:{sign}.4f} "
        f"with {gate.confidence * 100:g}% confidence; {gate.threshold:{sign}.4f} is asked for"
    )
    return GateResult(expression=gate.text, passed=passed, explanation=explanation)


def _regressions(evaluation: Evaluation, challenger: str, limit: int) -> GateResult:
    worse, _ = evaluation.changed_items(challenger)
    explanation = f"{challenger}: {len(worse)} items got worse on {evaluation.primary_metric}; {limit} are allowed"
    return GateResult(expression=f"regressions<={limit}", passed=len(worse) <= limit, explanation=explanation)
