"""Markdown that reads as text: foreign text is never markup, and is escaped only where it would be."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ftpipe.formatting import sanitize_line
from ftpipe.reports.markdown_text import escape_markdown, markdown_table
from tests.reports.xss_payloads import PAYLOADS

GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PUNCTUATION = st.text("ab1 _*`[]()<>|~\\!#&;:/.@=+-$\n", max_size=40)


def shown_text(markdown: str) -> str:
    """The text of one paragraph, if it has no markup at all."""
    block = GITHUB.parse(markdown)
    assert [token.type for token in block] in ([], ["paragraph_open", "inline", "paragraph_close"]), markdown
    children = [child for token in block for child in token.children or ()]
    assert {child.type for child in children} <= {"text", "text_special"}, markdown
    return "".join(child.content for child in children)


@given(st.text(max_size=80) | PUNCTUATION)
@example("1. first")
@example("- item")
@example("# title")
@example("1.")
@example("-")
@example("---")
@example("- - -")
@example("===")
@example("###### x")
@example("a &amp; b &#58; c")
def test_escape_markdown_neutralizes_any_text(text: str) -> None:
    """It is shown as it is, on one line, and nothing of it is markup, a link, a mention or a cell."""
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[`*\[\]|<>]", escaped)
    assert not re.search(r"(?i)https?:|javascript:|mailto:|\bwww\.|(?<!\w)@\w", escaped)
    assert shown_text(escaped) == sanitize_line(text).strip()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_escape_markdown_neutralizes_payloads(payload: str) -> None:
    assert shown_text(escape_markdown(payload, 1000)) == sanitize_line(payload, 1000).strip()


@pytest.mark.parametrize(
    "text",
    [
        "queue: billing; priority: urgent",
        "ft:smollm2-135m-instruct:local::auAabQpQ",
        "support-desk@production",
        "json_match (0.786 to 0.957)",
        "+0.000 on exact match",
        "0.00 USD",
        "-1 is a number, #tag a word",
        "It costs $5, and that is 3 + 4 = 7!",
        "{field}: a/b.jsonl, line 3 - messages.1.role",
    ],
)
def test_escape_markdown_leaves_ordinary_text_alone(text: str) -> None:
    """Whoever reads the file sees the text, not entities."""
    assert escape_markdown(text) == text


def test_markdown_table_is_aligned() -> None:
    """As text, its columns are below each other; as Markdown it is one table."""
    lines = list(markdown_table(["arm", "score"], [["base", "0.1"], ["a longer name", "你好"]]))
    assert lines == [
        "| arm           | score |",
        "| ------------- | ----- |",
        "| base          | 0.1   |",
        "| a longer name | 你好  |",
        "",
    ]
    assert html.unescape(GITHUB.render("\n".join(lines))).count("<td>") == 4
