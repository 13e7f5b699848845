"""The events of an answer: the same however it is cut into tokens, and all of its log-probabilities once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.server.api.answer_events import (
    Answer,
    AnswerEnd,
    AnswerEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    answer_events,
)
from ftpipe.server.api.chat_tools import CallableFunction, ChatTools

F, CUSTOM = CallableFunction({"name": "f"}, "tools[0]"), CallableFunction({"name": "x"}, "tools[1]", is_custom=True)
TOOLS = ChatTools(functions=(F, CUSTOM))
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CUSTOM_CALL = '<tool_call>\n{"name": "x", "arguments": {"input": "a \\"b\\"\\n\\u00e9"}}\n</tool_call>'


def events(tokens: Iterable[str], tools: ChatTools = TOOLS, reason: str = "stop") -> list[AnswerEvent]:
    """The events of an answer with these tokens."""
    deltas = [Delta(token, (TokenLogprob(token, -1.0),)) for token in tokens]
    end = Delta("", finish_reason=reason, prompt_tokens=3, cached_tokens=2, completion_tokens=len(deltas))
    return list(answer_events(iter([*deltas, end]), tools))


def answer_of(some: list[AnswerEvent]) -> Answer:
    answer = Answer()
    for event in some:
        answer.add(event)
    return answer


def calls_of(some: list[AnswerEvent]) -> list[tuple[str, str]]:
    return [(call.name, call.text) for call in answer_of(some).calls]


def test_text_and_arguments_come_token_by_token() -> None:
    tokens = ["So", ":", "<tool_call>", '{"name": "f", "arguments": ', "{", '"a"', ": 1", "}", "}\n</tool_call>"]
    some = events(tokens)
    [start] = [event for event in some if isinstance(event, ToolCallStart)]
    assert [replace(event, logprobs=()) for event in some if event is not start] == [
        TextDelta("So"),
        TextDelta(":"),
        *(ToolCallDelta(0, text) for text in tokens[4:8]),
        ToolCallEnd(0, is_complete=True),
        AnswerEnd("tool_calls", 3, 2, len(tokens)),
    ]
    counts = [len(event.logprobs) for event in some]
    assert counts == [1, 1, 0, 3, 1, 1, 1, 1, 0]
    assert (start.index, start.name, start.is_custom, start.id[:5]) == (0, "f", False, "call_")


@pytest.mark.parametrize("text", ["plain text", f"a {CALL} b {CUSTOM_CALL}", CALL[:30], "<tool_call> no", ""])
def test_every_token_has_its_logprob_once(text: str) -> None:
    """Also tokens whose text is held back, or is no part of the answer."""
    answer = answer_of(events(text))
    assert "".join(token.token for token in answer.logprobs) == text


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_custom_tool_gets_its_input_as_text(size: int) -> None:
    tokens = [CUSTOM_CALL[start : start + size] for start in range(0, len(CUSTOM_CALL), size)]
    some = events(tokens)
    assert calls_of(some) == [("x", 'a "b"\né')]
    assert answer_of(some).calls[0].is_custom


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('"alone"', "alone"),
        ('{"other": "a"}', '{"other": "a"}'),
        ('{"input": 5}', '{"input": 5}'),
        ("{}", "{}"),
        ('{"input": ""}', ""),
        ('{"input": "a", "more": "b"}', "a"),
    ],
)
def test_custom_tool_gets_other_arguments_as_they_are(arguments: str, text: str) -> None:
    """A small model does not always write what it was shown."""
    assert calls_of(events(f'<tool_call>{{"name": "x", "arguments": {arguments}}}</tool_call>')) == [("x", text)]


@pytest.mark.parametrize("length", range(len(CUSTOM_CALL)))
def test_custom_tool_gets_the_beginning_of_an_input_that_breaks_off(length: int) -> None:
    """Never a piece of the JSON around it."""
    some = events(CUSTOM_CALL[:length], ChatTools(functions=(CUSTOM,), is_required=True), "length")
    [(name, text)] = calls_of(some)
    assert name == "x"
    assert 'a "b"\né'.startswith(text)
    assert answer_of(some).text == ""


@pytest.mark.parametrize("length", range(len(CALL)))
def test_forced_call_that_breaks_off_is_a_partial_call(length: int) -> None:
    """And the answer says that it has reached its limit, unless the call was whole by then."""
    some = events(CALL[:length], ChatTools(functions=(F,), is_required=True), "length")
    assert calls_of(some) == [("f", CALL[CALL.index('{"a"') : min(length, CALL.index("}") + 1)])]
    assert answer_of(some).text == ""
    is_whole = length > CALL.index("}")
    assert some[-1] == AnswerEnd("tool_calls" if is_whole else "length", 3, 2, length, logprobs=some[-1].logprobs)
    assert [event.is_complete for event in some if isinstance(event, ToolCallEnd)] == [is_whole]


def test_call_that_is_not_forced_breaks_off_with_its_name() -> None:
    cut = CALL.index('"a"')
    assert calls_of(events(CALL[:cut], reason="length")) == [("f", "{")]
    no_name = events(CALL[:20], reason="length")
    assert (calls_of(no_name), answer_of(no_name).text) == ([], CALL[:20])


def test_second_call_is_left_out_if_one_is_allowed() -> None:
    some = events(f"{CALL}\n{CALL}", ChatTools(functions=(F,), has_one_call=True))
    assert calls_of(some) == [("f", '{"a": 1}')]
    assert calls_of(events(f"{CALL}\n{CALL}")) == [("f", '{"a": 1}')] * 2


@pytest.mark.parametrize(("reason", "expected"), [("stop", "stop"), ("length", "length")])
def test_answer_without_tools_is_text(reason: str, expected: Any) -> None:
    some = events([CALL], ChatTools(), reason)
    assert some == [TextDelta(CALL, logprobs=some[0].logprobs), AnswerEnd(expected, 3, 2, 1)]
