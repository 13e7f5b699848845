"""Each rule reports its fault in a small broken file, at the correct line and path, and nothing in valid data."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.dataset.rules import NOT_CHECKED, all_rules, codes, find_rule, rule_groups
from ftpipe.dataset.rules.base import TARGETS, Rule
from ftpipe.dataset.rules.docs import markdown
from ftpipe.stages.validate import validate
from tests.dataset.file_level_examples import FILE_EXAMPLES
from tests.dataset.negative_examples import NEGATIVE_FILES, NEGATIVE_LINES, negative_example
from tests.dataset.samples import write

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
    "FT223": (7, "messages[1].content", "error"),
    "FT301": (7, "tools[0].function.parameters", "error"),
    "FT302": (7, "tools[1].function.name", "error"),
    "FT303": (7, "messages[1].tool_calls[0].function.arguments", "error"),
    "FT304": (7, "messages[1].tool_calls[0].function.arguments", "warning"),
    "FT305": (7, "messages[1].tool_calls[0].function.name", "error"),
    "FT306": (7, "messages[2].tool_call_id", "error"),
    "FT307": (7, "messages[1].tool_calls[1].id", "error"),
    "FT308": (7, "messages[1].tool_calls", "error"),
    "FT309": (7, "functions", "warning"),
    "FT310": (None, "", "info"),
    "FT311": (7, "messages[1].tool_calls[0].type", "error"),
    "FT312": (7, "", "warning"),
    "FT401": (7, "messages[1].content[1].image_url", "error"),
    "FT402": (7, "messages", "error"),
    "FT404": (7, "messages[0].content[1].image_url.url", "error"),
    "FT407": (7, "messages[0].content[1].image_url.url", "error"),
    "FT408": (None, "", "info"),
    "FT410": (7, "messages[0].content[1].image_url.url", "warning"),
    "FT411": (7, "messages[0].content[1].image_url.detail", "error"),
    "FT501": (7, "non_preferred_output", "error"),
    "FT502": (7, "preferred_output", "error"),
    "FT503": (7, "non_preferred_output[0].content", "error"),
    "FT504": (7, "non_preferred_output[0].content", "warning"),
    "FT505": (None, "", "warning"),
    "FT506": (13, "", "error"),
    "FT507": (7, "input.messages", "error"),
    "FT508": (7, "input.messages[1].role", "warning"),
    "FT601": (7, "messages[2].role", "error"),
    "FT602": (7, "messages[0].role", "error"),
    "FT603": (7, "answer", "error"),
    "FT606": (7, "answer", "warning"),
    "FT801": (7, "", "warning"),
    "FT803": (7, "", "warning"),
    "FT804": (None, "", "info"),
    "FT805": (7, "messages[2].content", "warning"),
    "FT806": (None, "messages[0].content", "info"),
    "FT807": (7, "messages[2].content", "warning"),
    "FT808": (7, "", "warning"),
    "FT809": (7, "messages[2].content", "warning"),
    "FT810": (7, "messages[2].content", "warning"),
    "FT812": (7, "messages[2].content", "info"),
    "FT813": (7, "messages[2].content", "warning"),
    "FT814": (7, "messages[2].content", "warning"),
    "FT815": (None, "", "info"),
    "FT816": (7, "messages[2].content", "info"),
    "FT817": (7, "messages[0].role", "warning"),
    "FT901": (7, "messages[1].content", "error"),
    "FT902": (7, "messages[1].content", "warning"),
    "FT904": (7, "messages[2].content", "warning"),
    "FT906": (7, "messages[2].content", "info"),
}
EXPECTED_EVERYWHERE = {"FT113"}
"""Findings of all small files."""
SIDE_EFFECTS = {
    "FT105": {"FT215"},
    "FT301": {"FT312"},
    **{code: {"FT408"} for code in ("FT401", "FT402", "FT404", "FT407", "FT410", "FT411")},
}
"""Further findings that a fault causes."""


@pytest.mark.parametrize("code", EXPECTED)
def test_rule_reports_fault_at_line_and_path(code: str) -> None:
    """One fault gives one finding with its severity, and no other rule reports anything."""
    report = validate(BROKEN / f"{code}.jsonl", target="azure" if code.startswith("FT6") else "openai")
    others = (EXPECTED_EVERYWHERE | SIDE_EFFECTS.get(code, set())) - {code}
    findings = [(f.line, f.path, f.severity.value) for f in report.findings if f.code == code]
    assert EXPECTED[code] in findings and len(findings) <= 2
    assert {f.code for f in report.findings} <= {code} | others


def test_each_rule_has_positive_and_negative_example() -> None:
    assert set(codes()) == set(EXPECTED) | set(FILE_EXAMPLES)
    assert set(codes()) == set(NEGATIVE_LINES) | set(NEGATIVE_FILES) | set(FILE_EXAMPLES)


@pytest.mark.parametrize("code", [*NEGATIVE_LINES, *NEGATIVE_FILES])
def test_rule_accepts_negative_example(code: str, tmp_path: Path) -> None:
    path = write(tmp_path / "valid.jsonl", negative_example(code))
    assert code not in validate(path, target="azure" if code.startswith("FT6") else "openai").summary.counts


@pytest.mark.parametrize("code", FILE_EXAMPLES)
def test_rule_reports_file_example_only_with_fault(code: str, tmp_path: Path) -> None:
    """Rules that depend on models, second files, sizes, dates and prices."""
    if code in ("FT704", "FT802"):
        pytest.importorskip("rensa")
    assert code in FILE_EXAMPLES[code](tmp_path, True)
    assert code not in FILE_EXAMPLES[code](tmp_path, False)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_rule_has_description_reason_fix_and_source(rule: Rule) -> None:
    """`ftpipe explain` prints them."""
    text = rule.text
    assert all((text.what, text.why, text.fix, text.source)), rule.code
    assert {rule.level_for(target) for target in TARGETS} <= {"error", "warning", "info", "off"}


def test_rule_codes_match_group_and_have_unique_names() -> None:
    """The hundreds digit is the group, and no code is used for two rules."""
    for name, group in rule_groups().items():
        assert all(rule.code.startswith(name) for rule in group.rules)
    names = {rule.code: rule.name for rule in all_rules()}
    assert all(names[rule.code] == rule.name for rule in all_rules())
    assert len(set(names.values())) == len(codes())


def test_find_rule_by_code_and_name() -> None:
    """In upper or lower case."""
    assert find_rule("ft204") is find_rule("Missing-Role")
    assert find_rule("FT999") is None


def test_rules_page_is_up_to_date() -> None:
    """`ftpipe explain --all --output-format md > docs/rules.md` updates it."""
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    assert page == markdown()
    assert all(f"**{code}**" in page for code in codes())
    tables = [line for line in page.splitlines() if line.startswith("| **")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {len(TARGETS) + 5, 3}
    assert set(NOT_CHECKED).isdisjoint(codes())
