"""Tool calls are read from a model's text in one pass."""

from __future__ import annotations

import time

import pytest

from ftpipe.inference.tool_call_parser import parse_tool_calls

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def test_parse_tool_calls_reads_calls_and_text_around_them() -> None:
    parsed = parse_tool_calls(f"before {CALL} between {CALL} after <tool_call> open")
    assert parsed is not None
    text, calls = parsed
    assert text == "before  between  after <tool_call> open"
    assert [call["function"] for call in calls] == [{"name": "f", "arguments": '{"a": 1}'}] * 2
    assert parse_tool_calls("<tool_call>not json</tool_call>") is None


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 20_000,
        "<tool_call>" + " " * 200_000,
        "<tool_call>" * 20_000 + "</tool_call>",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        '<tool_call>{"name": "f", "arguments": ' + "[" * 950 + "]" * 950 + "}</tool_call>",
        "<tool_call>" + "9" * 100_000 + "</tool_call>",
    ],
)
def test_parse_tool_calls_hostile_text_takes_linear_time(text: str) -> None:
    started_at = time.thread_time()
    parse_tool_calls(text)
    assert time.thread_time() - started_at < 1
