"""One row: findings at their message, marks in texts, and lines that are no records."""

from __future__ import annotations

import json
from typing import Any

from ftpipe.dataset.line_index import IndexedLine
from ftpipe.ui.datasets.check_result import RowFinding
from ftpipe.ui.datasets.row_view import Segment, segments, summarize_row, view_row

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": "It is a cat.", "weight": 0},
        {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": '{"at": 1}'}}]},
    ],
    "tools": [],
}


def line(record: Any, number: int = 7) -> IndexedLine:  # any JSON
    return IndexedLine(number, json.dumps(record).encode())


def finding(path: str, excerpt: str = "") -> RowFinding:
    return RowFinding(7, "FT204", "error", path, "it is wrong", "correct it", excerpt)


def test_findings_are_at_their_message() -> None:
    view = view_row(line(CHAT), [finding("messages[2].content", "a cat"), finding("messages[2]"), finding("tools[0]")])
    (title, messages) = view.lists[0]
    assert title == ""
    assert [len(message.findings) for message in messages] == [0, 0, 2, 0]
    assert [one.path for one in view.findings] == ["tools[0]"]
    assert messages[2].segments == (Segment("It is "), Segment("a cat", "fault"), Segment("."))
    assert messages[2].weight == "weight 0"
    assert messages[3].calls == (("look", '{"at": 1}'),)
    assert "".join(part.text for part in messages[1].segments) == "What is it?\n[image_url]"
    assert view.finding_count == 3
    assert '"tools": []' in view.other_fields


def test_message_10_does_not_get_the_findings_of_message_1() -> None:
    record = {"messages": [{"role": "user", "content": str(number)} for number in range(12)]}
    view = view_row(line(record), [finding("messages[10].content")])
    assert [len(message.findings) for message in view.lists[0][1]] == [0] * 10 + [1, 0]


def test_pair_has_three_lists() -> None:
    record = {
        "input": {"messages": [{"role": "user", "content": "q"}]},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    }
    view = view_row(line(record), [finding("preferred_output[0].content")])
    assert [title for title, _ in view.lists] == ["prompt", "preferred answer", "non-preferred answer"]
    assert len(view.lists[1][1][0].findings) == 1
    summary = summarize_row(line(record), [])
    assert ("".join(s.text for s in summary.prompt), "".join(s.text for s in summary.answer)) == ("q", "good")


def test_line_that_is_no_record_is_shown_as_it_is() -> None:
    raw = IndexedLine(2, b'{"messages": [\xff')
    view = view_row(raw, [finding("")])
    assert view.lists == ()
    assert view.raw[0].text.startswith('{"messages": [')
    assert len(view.findings) == 1
    assert not summarize_row(raw, []).is_readable


def test_row_with_values_of_wrong_types_is_shown() -> None:
    records: list[Any] = [{"messages": [1, None, {"role": 5, "content": {"a": 1}}]}, {"messages": "text"}, [], 5]
    for record in records:
        view = view_row(line(record), [])
        assert view.line == 7
        summarize_row(line(record), [])


def test_segments_mark_a_search_in_any_case() -> None:
    assert list(segments("A cat, a CAT (x)", "cat")) == [
        Segment("A "), Segment("cat", "hit"), Segment(", a "), Segment("CAT", "hit"), Segment(" (x)"),
    ]  # fmt: skip
    assert list(segments("(x)", "(x)")) == [Segment("(x)", "hit")]


def test_summary_shows_the_part_that_was_searched_for() -> None:
    record = {"messages": [{"role": "user", "content": "word " * 200 + "needle here"}]}
    shown = summarize_row(line(record), [], "needle").prompt
    assert any(part.mark == "hit" for part in shown)
