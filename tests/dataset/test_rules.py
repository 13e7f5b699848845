"""Every rule fires on its own tiny broken file, at the right line and path, and on nothing else there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.dataset.rules import all_rules, codes, families, find_rule
from ftpipe.dataset.rules.rule import TARGETS, Rule
from ftpipe.records import Method
from ftpipe.stages.validate import validate

BROKEN = Path(__file__).parents[1] / "data" / "broken"

# code → (line, path, severity); the file is broken/<code>.jsonl
EXPECTED: dict[str, tuple[int | None, str, str]] = {
    "FT002": (None, "", "error"),
    "FT004": (7, "", "error"),
    "FT005": (1, "", "error"),
    "FT006": (7, "", "warning"),
    "FT007": (7, "", "warning"),
    "FT008": (7, "", "error"),
    "FT011": (None, "", "info"),
    "FT012": (7, "", "info"),
    "FT101": (7, "", "error"),
    "FT102": (7, "", "error"),
    "FT103": (7, "", "error"),
    "FT104": (7, "messages[0].content", "error"),
    "FT105": (7, "", "error"),
    "FT106": (7, "messages[0].content", "error"),
    "FT107": (7, "", "error"),
    "FT108": (7, "", "error"),
    "FT110": (7, "source", "error"),
    "FT111": (1, "", "error"),
    "FT112": (None, "", "error"),
    "FT113": (None, "", "info"),
    "FT201": (7, "messages", "error"),
    "FT202": (7, "messages", "error"),
    "FT203": (7, "messages[1]", "error"),
    "FT204": (7, "messages[1].role", "error"),
    "FT205": (7, "messages[1].role", "error"),
    "FT206": (7, "messages[1].content", "error"),
    "FT207": (7, "messages[0].content", "error"),
    "FT208": (7, "messages[2].content", "error"),
    "FT209": (7, "messages", "error"),
    "FT210": (7, "messages[3].role", "error"),
    "FT211": (7, "messages[1].role", "warning"),
    "FT212": (7, "messages[1].role", "info"),
    "FT213": (7, "messages[2].role", "info"),
    "FT214": (7, "messages[1].lang", "error"),
    "FT215": (7, "messages[2].weight", "error"),
    "FT216": (7, "messages", "error"),
    "FT217": (7, "messages[1].name", "error"),
    "FT218": (7, "messages[1].content", "error"),
    "FT219": (7, "messages[0].role", "warning"),
    "FT221": (7, "messages[1].role", "warning"),
}
ALWAYS = {"FT113"}
"""Findings that small files have beside the fault."""


@pytest.mark.parametrize("code", EXPECTED)
def test_a_rule_names_its_fault_at_line_and_path_and_nothing_else_fires(code: str) -> None:
    """One fault, one finding, at its place and with its severity."""
    report = validate(BROKEN / f"{code}.jsonl")
    found = [(f.code, f.line, f.path, f.severity.value) for f in report.findings if f.code not in ALWAYS - {code}]
    assert found == [(code, *EXPECTED[code])]


def test_another_suffix_is_refused() -> None:
    """The Files API looks at the name."""
    assert "FT003" in validate(BROKEN / "FT003.txt").summary.counts


def test_a_chat_file_is_refused_for_the_method_dpo() -> None:
    """The method that was asked for decides, not the one that would fit."""
    report = validate(BROKEN / "FT109.jsonl", method=Method.DPO)
    assert [f.code for f in report.findings if f.severity == "error"] == ["FT109"]


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_says_what_why_how_to_mend_it_and_where_it_is_from(rule: Rule) -> None:
    """`ftpipe explain` has something to print for each code."""
    text = rule.text
    assert all((text.what, text.why, text.fix, text.source)), rule.code
    assert {rule.level_for(target) for target in TARGETS} <= {"error", "warning", "info", "off"}


def test_codes_lie_in_their_family_and_have_one_name_each() -> None:
    """The hundreds digit is the family, and no code is used for two rules."""
    for name, family in families().items():
        assert all(rule.code.startswith(name) for rule in family.rules)
    names = {rule.code: rule.name for rule in all_rules()}
    assert all(names[rule.code] == rule.name for rule in all_rules())
    assert len(set(names.values())) == len(codes())


def test_a_rule_is_found_by_code_and_by_name() -> None:
    """Both spellings, whatever the case."""
    assert find_rule("ft204") is find_rule("Missing-Role")
    assert find_rule("FT999") is None
