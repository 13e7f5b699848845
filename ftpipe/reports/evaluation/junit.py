"""An evaluation as JUnit XML: a test for each gate and verdict, and one for each item that got worse."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from ftpipe.formatting import sanitize_block, xml_text
from ftpipe.records.evaluation import Evaluation, Outcome
from ftpipe.reports.evaluation.wording import verdict_reason, verdict_title

MAX_ANSWER_CHARACTERS = 2000
"""Characters of an answer that are quoted."""


def to_junit(evaluation: Evaluation) -> str:
    """The evaluation for a continuous-integration server.

    Gates fail as gates do; without gates a verdict of ``loss`` fails. Items that got worse are listed as skipped, with
    both answers, so that they are seen but do not fail a build whose gate allows them.
    """
    suite = Xml.Element("testsuite", name=_text(f"ftpipe evaluate {evaluation.data}"))
    for gate in evaluation.gates:
        case = _case(suite, "gate", f"{gate.expression}: {gate.explanation}")
        if not gate.passed:
            _note(case, "failure", gate.explanation, gate.explanation)
    for name in evaluation.challengers:
        headline = evaluation.primary_comparison(name)
        case = _case(suite, "verdict", f"{name} against {evaluation.baseline}")
        Xml.SubElement(case, "system-out").text = _text(verdict_reason(headline))
        if headline.verdict == "loss" and not evaluation.gates and name in evaluation.candidates:
            _note(case, "failure", verdict_title(headline), verdict_reason(headline))
        for outcome in evaluation.changed_items(name)[0]:
            case = _case(suite, f"regressions.{name}", f"line {outcome.item.line}")
            _note(case, "skipped", "got worse", _quote(evaluation, outcome, name))
    kinds = {kind: len(suite.findall(f"./testcase/{kind}")) for kind in ("failure", "skipped")}
    suite.attrib |= {
        "tests": str(len(suite)), "failures": str(kinds["failure"]), "skipped": str(kinds["skipped"]), "errors": "0"
    }  # fmt: skip
    root = Xml.Element("testsuites")
    root.append(suite)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _case(suite: Xml.Element, group: str, name: str) -> Xml.Element:
    return Xml.SubElement(suite, "testcase", classname=_text(f"ftpipe.{group}"), name=_text(name))


def _note(case: Xml.Element, kind: str, message: str, text: str) -> None:
    Xml.SubElement(case, kind, message=_text(message)).text = _block(text)


def _quote(evaluation: Evaluation, outcome: Outcome, challenger: str) -> str:
    lines = [f"wanted: {outcome.item.expected[:MAX_ANSWER_CHARACTERS]}"]
    for arm in (evaluation.baseline, challenger):
        lines.append(f"{arm}: {outcome.answers[arm][0].text[:MAX_ANSWER_CHARACTERS]}")
    return "\n".join(lines)


def _text(text: str) -> str:
    return xml_text(text, MAX_ANSWER_CHARACTERS)


def _block(text: str) -> str:
    return "\n".join(xml_text(line) for line in sanitize_block(text).split("\n"))
