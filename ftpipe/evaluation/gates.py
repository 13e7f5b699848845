"""Gates: conditions for continuous integration such as ``exact>=+0.03@95%``, parsed without evaluating code.

``METRIC >= [+|-]NUMBER[%] [@ CONFIDENCE%]``: with a sign, the *gain* over the baseline must reach the number; without
a sign, the challenger's *score*. The lower end of the confidence interval must reach it, not the mean.
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
    """One parsed condition."""

    text: str
    metric: str
    threshold: float
    is_gain: bool
    is_strict: bool
    confidence: float


def parse_gates(text: str) -> list[Gate]:
    """Parse conditions that are separated by commas.

    Raises:
        UsageError: A condition has another form, or its numbers are out of range.
    """
    return [_parse(part) for part in text.split(",")]


def _parse(text: str) -> Gate:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"the gate {text.strip()[:80]!r} cannot be parsed",
            "write it as METRIC>=+GAIN@CONFIDENCE%, for example exact>=+0.03@95%, or METRIC>=SCORE",
        )
    threshold = float(match["number"]) / (100 if match["percent"] else 1)
    confidence = float(match["confidence"]) if match["confidence"] else DEFAULT_CONFIDENCE
    confidence = confidence / 100 if confidence > 1 else confidence
    if threshold > 1 or not 0.5 <= confidence < 1:
        raise UsageError(
            f"the gate {text.strip()!r} is out of range",
            "scores and gains are from 0 to 1 (or percent with %), confidences from 50% to below 100%",
        )
    return Gate(
        text=text.strip(),
        metric=match["metric"],
        threshold=-threshold if match["sign"] == "-" else threshold,
        is_gain=bool(match["sign"]),
        is_strict=match["relation"] == ">",
        confidence=confidence,
    )


def check_gates(
    evaluation: Evaluation, evidence: Evidence, gates: list[Gate], *, max_regressions: int | None = None
) -> tuple[GateResult, ...]:
    """Check every condition for every candidate.

    Raises:
        UsageError: A condition names a metric that was not computed.
    """
    results = [_check(evaluation, evidence, gate, name) for gate in gates for name in evaluation.candidates]
    if max_regressions is not None:
        results += [_regressions(evaluation, name, max_regressions) for name in evaluation.candidates]
    return tuple(results)


def _check(evaluation: Evaluation, evidence: Evidence, gate: Gate, challenger: str) -> GateResult:
    computed = set(evidence.is_binary) | ({MACRO_F1} if evaluation.task is Task.LABEL else set())
    if gate.metric not in computed:
        raise UsageError(
            f"the gate {gate.text!r} needs the metric {gate.metric}, which was not computed",
            f"computed metrics: {', '.join(sorted(computed))}; add others with --metric",
        )
    if gate.is_gain:
        interval = evidence.difference(evaluation.baseline, challenger, gate.metric, gate.confidence).interval
        low, value, quantity = interval.low, interval.value, f"gain over {evaluation.baseline}"
    else:
        score = evidence.arm_score(challenger, gate.metric, gate.confidence)
        low, value, quantity = score.low, score.value, "score"
    # The tolerance of 1e-9 is for floating point sums; it decides no condition that exact arithmetic would not.
    passed = low > gate.threshold + 1e-9 if gate.is_strict else low >= gate.threshold - 1e-9
    sign = "+" if gate.is_gain else ""
    relation = "more than " if gate.is_strict else ""
    explanation = (
        f"{challenger}: the {quantity} on {gate.metric} is {value:{sign}.4f}, and at least {low:{sign}.4f} "
        f"with {gate.confidence * 100:g}% confidence; required: {relation}{gate.threshold:{sign}.4f}"
    )
    return GateResult(expression=gate.text, passed=passed, explanation=explanation)


def _regressions(evaluation: Evaluation, challenger: str, limit: int) -> GateResult:
    regressed, _ = evaluation.changed_items(challenger)
    explanation = f"{challenger}: {len(regressed)} items regressed on {evaluation.primary_metric}; allowed: {limit}"
    return GateResult(expression=f"regressions<={limit}", passed=len(regressed) <= limit, explanation=explanation)
