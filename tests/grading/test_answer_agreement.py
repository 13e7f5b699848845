"""Two answers agree exactly if their canonical texts are equal."""

from __future__ import annotations

from typing import Any

import pytest

from ftpipe.grading.answer_agreement import canonical_answer


def call(name: str, arguments: object) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def custom(name: str, text: str) -> dict[str, Any]:
    return {"id": f"call_{text}", "type": "custom", "custom": {"name": name, "input": text}}


def agree(first: Any, second: Any) -> bool:
    """Whether two answers agree; a plain text is a message with this content."""
    messages = [{"content": answer} if isinstance(answer, str) else answer for answer in (first, second)]
    return canonical_answer(messages[0]) == canonical_answer(messages[1])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Billing", " billing.\n"),
        ("two  words", "Two\nwords"),
        ("ﬁle", "file"),
        ('{"a": 1, "b": [2.0]}', '{"b":[2],"a":1}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ("[1, 2]", "[1,2]"),
        ({"content": None, "refusal": "No"}, "no"),
        ({"tool_calls": [call("f", '{"a": 1, "b": 2}')]}, {"tool_calls": [call("f", '{"b":2,"a":1}')], "content": "x"}),
        ({"tool_calls": [call("f", "{}"), call("g", "{}")]}, {"tool_calls": [call("g", "{}"), call("f", "{}")]}),
        ({"content": ""}, {}),
        ({"tool_calls": [custom("f", "a") | {"id": "1"}]}, {"tool_calls": [custom("f", "a")]}),
        ({"function_call": {"name": "f", "arguments": '{"a":1}'}}, {"tool_calls": [call("f", '{"a": 1}')]}),
    ],
)
def test_canonical_answer_is_equal(first: Any, second: Any) -> None:
    assert agree(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("yes", "no"),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": 1}', '{"a": true}'),
        ("[1, 2]", "[2, 1]"),
        ('{"a": 1}', '{"a": 1'),
        ({"tool_calls": [call("f", "{}")]}, {"tool_calls": [call("g", "{}")]}),
        ({"tool_calls": [call("f", '{"a": 1}')]}, {"tool_calls": [call("f", '{"a": 2}')]}),
        ({"tool_calls": [call("f", "{}")]}, {"tool_calls": [call("f", "{}"), call("f", "{}")]}),
        ({"tool_calls": [call("f", "not JSON")]}, {"tool_calls": [call("f", "neither")]}),
        ({"tool_calls": [call("f", "{}")]}, "f"),
        ("", "text"),
        ({"tool_calls": [custom("f", "a")]}, {"tool_calls": [custom("f", "b")]}),
        ({"function_call": {"name": "f", "arguments": "{}"}}, {"function_call": {"name": "g", "arguments": "{}"}}),
    ],
)
def test_canonical_answer_is_different(first: Any, second: Any) -> None:
    assert not agree(first, second)


@pytest.mark.parametrize(
    "message",
    [
        {"content": 5},
        {"content": ["a"], "tool_calls": "f"},
        {"tool_calls": [None]},
        {"tool_calls": [{"function": None}]},
        {"tool_calls": [{"function": {"name": None, "arguments": {"a": [1]}}}]},
        {"tool_calls": [{"function": {"arguments": "[" * 500}}]},
        {"content": "[" * 100_000},
        {"content": "\ud800"},
    ],
)
def test_canonical_answer_of_a_strange_message(message: dict[str, Any]) -> None:
    """Another host's answer can have any type anywhere."""
    assert canonical_answer(message) == canonical_answer(dict(message))
