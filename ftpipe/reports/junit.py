"""Writes test suites as JUnit XML, the format that continuous-integration servers read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as Xml

from ftpipe.formatting import sanitize_block, xml_text

MAX_ATTRIBUTE_CHARACTERS = 2000


@dataclass(frozen=True)
class JUnitCase:
    """One test and its result."""

    group: str
    name: str
    result: Literal["passed", "failure", "skipped"] = "passed"
    message: str = ""
    """One line about a failure or a skipped test."""
    details: str = ""
    """More lines about it."""
    output: str = ""


@dataclass(frozen=True)
class JUnitSuite:
    """Tests under one name."""

    name: str
    cases: Sequence[JUnitCase]


def junit_xml(suites: Iterable[JUnitSuite]) -> str:
    """The suites as one JUnit XML document."""
    root = Xml.Element("testsuites")
    for suite in suites:
        results = [case.result for case in suite.cases]
        element = Xml.SubElement(
            root,
            "testsuite",
            name=_line(f"ftpipe {suite.name}"),
            tests=str(len(results)),
            failures=str(results.count("failure")),
            skipped=str(results.count("skipped")),
            errors="0",
        )
        for case in suite.cases:
            _add_case(element, case)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: Xml.Element, case: JUnitCase) -> None:
    element = Xml.SubElement(suite, "testcase", classname=_line(f"ftpipe.{case.group}"), name=_line(case.name))
    if case.output:
        Xml.SubElement(element, "system-out").text = _line(case.output)
    if case.result != "passed":
        result = Xml.SubElement(element, case.result, message=_line(case.message))
        result.text = "\n".join(xml_text(line) for line in sanitize_block(case.details).split("\n")) or None


def _line(text: str) -> str:
    return xml_text(text, MAX_ATTRIBUTE_CHARACTERS)
