"""Every rule fires on its own tiny broken file, at the right line and path, and on nothing else there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.dataset.rules import NOT_CHECKED, all_rules, codes, find_rule, rule_groups
from ftpipe.dataset.rules.base import TARGETS, Rule
from ftpipe.dataset.rules.docs import markdown
from ftpipe.stages.validate import validate
from tests.dataset.file_level_examples import SITUATIONS
from tests.dataset.negative_examples import FILES, LINES, file_for
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
BESIDE = {"FT113"}
"""Findings that small files have beside the fault."""
ALSO = {"FT301": {"FT312"}} | {code: {"FT408"} for code in ("FT401", "FT402", "FT404", "FT407", "FT410")}
"""Findings that the fault itself brings with it."""


@pytest.mark.parametrize("code", EXPECTED)
def test_a_rule_names_its_fault_at_line_and_path_and_nothing_else_fires(code: str) -> None:
    """One fault, one finding, at its place and with its severity."""
    report = validate(BROKEN / f"{code}.jsonl", target="azure" if code.startswith("FT6") else "openai")
    beside = (BESIDE | ALSO.get(code, set())) - {code}
    found = [(f.line, f.path, f.severity.value) for f in report.findings if f.code == code]
    assert EXPECTED[code] in found and len(found) <= 2
    assert {f.code for f in report.findings} <= {code} | beside


def test_every_rule_has_something_that_makes_it_fire_and_something_that_nearly_does() -> None:
    """A new rule without a broken file or a situation, or without its near miss, is noticed."""
    assert set(codes()) == set(EXPECTED) | set(SITUATIONS)
    assert set(codes()) == set(LINES) | set(FILES) | set(SITUATIONS)


@pytest.mark.parametrize("code", [*LINES, *FILES])
def test_what_only_looks_like_a_fault_is_let_pass(code: str, tmp_path: Path) -> None:
    """The nearest right thing, for each rule."""
    path = write(tmp_path / "near.jsonl", file_for(code))
    assert code not in validate(path, target="azure" if code.startswith("FT6") else "openai").summary.counts


@pytest.mark.parametrize("code", SITUATIONS)
def test_a_situation_makes_a_rule_fire_and_the_next_best_one_does_not(code: str, tmp_path: Path) -> None:
    """Models, second files, sizes, days and money."""
    if code in ("FT704", "FT802"):
        pytest.importorskip("rensa")
    assert code in SITUATIONS[code](tmp_path, True)
    assert code not in SITUATIONS[code](tmp_path, False)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_says_what_why_how_to_mend_it_and_where_it_is_from(rule: Rule) -> None:
    """`ftpipe explain` has something to print for each code."""
    text = rule.text
    assert all((text.what, text.why, text.fix, text.source)), rule.code
    assert {rule.level_for(target) for target in TARGETS} <= {"error", "warning", "info", "off"}


def test_codes_lie_in_their_family_and_have_one_name_each() -> None:
    """The hundreds digit is the family, and no code is used for two rules."""
    for name, group in rule_groups().items():
        assert all(rule.code.startswith(name) for rule in group.rules)
    names = {rule.code: rule.name for rule in all_rules()}
    assert all(names[rule.code] == rule.name for rule in all_rules())
    assert len(set(names.values())) == len(codes())


def test_a_rule_is_found_by_code_and_by_name() -> None:
    """Both spellings, whatever the case."""
    assert find_rule("ft204") is find_rule("Missing-Role")
    assert find_rule("FT999") is None


def test_the_catalogue_is_the_table() -> None:
    """`ftpipe explain --all --output-format md > docs/rules.md` brings it up to date."""
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    assert page == markdown()
    assert all(f"**{code}**" in page for code in codes())
    tables = [line for line in page.splitlines() if line.startswith("| **")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {9, 3}
    assert set(NOT_CHECKED).isdisjoint(codes())
