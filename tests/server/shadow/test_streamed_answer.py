"""An answer that another host streams is put together again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftpipe.server.shadow.streamed_answer import MAX_ANSWER_BYTES, StreamedAnswer


def answer_of(*choices: Any, usage: Any = None) -> dict[str, Any] | None:
    """The completion of a stream with one choice in each event."""
    answer = StreamedAnswer()
    for choice in choices:
        answer.add(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    answer.add(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    answer.add(b"data: [DONE]\n\n")
    return answer.completion()


def delta(finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish_reason}


def test_streamed_text_of_the_first_choice() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    pieces = (
        delta(role="assistant"),
        delta(content="two "),
        delta(index=1, content="x"),
        delta("stop", content="parts"),
    )
    completion = answer_of(*pieces, usage=usage)
    assert completion is not None
    assert completion["choices"][0]["message"]["content"] == "two parts"
    assert completion["usage"] == usage


def test_streamed_tool_calls() -> None:
    """Names and arguments come in pieces, and the calls one after the other."""
    first = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}]
    more = [{"index": 0, "function": {"arguments": ": 1}"}}, {"index": 1, "function": {"name": "g", "arguments": "{}"}}]
    completion = answer_of(delta(tool_calls=first), delta("tool_calls", tool_calls=more))
    assert completion is not None
    calls = completion["choices"][0]["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": '{"a": 1}'},
        {"name": "g", "arguments": "{}"},
    ]


def test_streamed_calls_of_other_forms() -> None:
    """Of a custom tool, and in the form that came before tools."""
    start = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "run", "input": ""}}
    completion = answer_of(
        delta(tool_calls=[start]), delta("tool_calls", tool_calls=[{"index": 0, "custom": {"input": "a"}}])
    )
    assert completion is not None
    [call] = completion["choices"][0]["message"]["tool_calls"]
    assert call == {"id": "c", "type": "custom", "custom": {"name": "run", "input": "a"}}
    completion = answer_of(
        delta(function_call={"name": "f", "arguments": ""}), delta("function_call", function_call={"arguments": "{}"})
    )
    assert completion is not None
    message = completion["choices"][0]["message"]
    assert (message["content"], message["function_call"]) == (None, {"name": "f", "arguments": "{}"})


@pytest.mark.parametrize(
    "choices",
    [
        (),
        (delta(content="broken off"),),
        (delta(content="x" * MAX_ANSWER_BYTES), delta("stop")),
    ],
)
def test_streamed_answer_that_is_not_whole(choices: tuple[Any, ...]) -> None:
    assert answer_of(*choices) is None


@pytest.mark.parametrize(
    "choice",
    [
        None,
        "text",
        {"delta": None},
        {"delta": "text"},
        delta(content=5),
        delta(tool_calls="f"),
        delta(tool_calls=[None, {"index": "0"}, {"index": 1, "function": "f"}, {"index": 2, "function": {"name": 5}}]),
    ],
)
def test_streamed_answer_of_strange_types(choice: Any) -> None:
    """Another host can send anything; the rest of the answer is used."""
    completion = answer_of(choice, delta("stop", content="fine"))
    assert completion is not None
    assert completion["choices"][0]["message"]["content"] == "fine"


def test_streamed_answer_with_broken_json() -> None:
    answer = StreamedAnswer()
    answer.add(b"data: {broken\n\n")
    answer.add(b": comment\n\n")
    assert answer.completion() is None
