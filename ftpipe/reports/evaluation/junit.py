"""An evaluation as JUnit XML: a test for each gate, each verdict and each item that regressed."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.records.evaluation import Evaluation, Outcome
from ftpipe.reports.evaluation.wording import overlap_sentence, verdict_reason, verdict_title
from ftpipe.reports.junit import JUnitCase, JUnitSuite, junit_xml

MAX_ANSWER_CHARACTERS = 2000
"""Characters of an answer that are quoted."""


def to_junit(evaluation: Evaluation) -> str:
    """The evaluation for a continuous-integration server.

    A failed gate is a failure; without gates a verdict of ``loss`` is one. Items that regressed are listed as
    skipped, with both answers, so that they are visible but do not fail a build whose gate allows them.
    """
    return junit_xml([JUnitSuite(f"evaluate {evaluation.data}", list(_cases(evaluation)))])


def _cases(evaluation: Evaluation) -> Iterator[JUnitCase]:
    for gate in evaluation.gates:
        text = gate.explanation
        name = f"{gate.expression}: {text}"
        yield JUnitCase("gate", name, "passed" if gate.passed else "failure", message=text, details=text)
    for name in evaluation.challengers:
        comparison = evaluation.primary_comparison(name)
        overlaps = [overlap_sentence(overlap) for overlap in evaluation.overlaps_of(comparison)]
        reason = "\n".join([verdict_reason(comparison), *overlaps])
        is_failure = comparison.verdict == "loss" and not evaluation.gates and name in evaluation.candidates
        yield JUnitCase(
            "verdict",
            f"{name} against {evaluation.baseline}",
            "failure" if is_failure else "passed",
            message=verdict_title(comparison),
            details=reason,
            output=reason,
        )
        for outcome in evaluation.changed_items(name)[0]:
            quote = _quote(evaluation, outcome, name)
            yield JUnitCase(
                f"regressions.{name}", f"line {outcome.item.line}", "skipped", message="regressed", details=quote
            )


def _quote(evaluation: Evaluation, outcome: Outcome, challenger: str) -> str:
    lines = [f"expected: {outcome.item.expected[:MAX_ANSWER_CHARACTERS]}"]
    for arm in (evaluation.baseline, challenger):
        lines.append(f"{arm}: {outcome.answers[arm][0].text[:MAX_ANSWER_CHARACTERS]}")
    return "\n".join(lines)
