"""Tool calls are read from a model's text in one pass."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpipe.inference.tool_call_parser import (
    END,
    START,
    CallArguments,
    CallEnd,
    CallStart,
    ParsedPiece,
    TextPiece,
    ToolCallParser,
    parse_tool_calls,
)
from tests.examples import examples

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


def parse(pieces: list[str], parser: ToolCallParser | None = None) -> list[ParsedPiece]:
    """What the parser gives for a text in pieces, with what belongs together in one piece."""
    parser = parser or ToolCallParser()
    parsed: list[ParsedPiece] = []
    for piece in [each for text in pieces for each in parser.feed(text)] + parser.flush():
        last = parsed[-1] if parsed else None
        if isinstance(piece, TextPiece | CallArguments) and type(last) is type(piece):
            parsed[-1] = type(piece)(last.text + piece.text)
        else:
            parsed.append(piece)
    return parsed


SAMPLES = [
    f"before {CALL} between {CALL} after <tool_call> open",
    CALL.replace('"f"', r'"caf\u00e9"'),
    f'<tool_call>[{{"name": "f"}}, {{"parameters": {{"x": "{"y" * 9}"}}, "name": "g"}}]</tool_call>\n{CALL}',
    '<tool_call>{"name": "f", "arguments": "a \\"quoted\\" \\ud83d\\ude00 \\ud83d text"}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}, "id": {"b": "}"}}</tool_call> rest',
    '<tool_call>{"name": "f", "arguments": {"a": "open}\n</tool_call> rest',
    '<tool_call>{"name": "f", "arguments": {a: 1}}\n</tool_call> rest',
    '<tool_call>{"name": "f", "arguments": -1}',
    '<tool_call>{"name": "f", "arguments": null\n</tool_call>',
    '<tool_call>{"name": "f", "arguments": {}} and more <tool_call>{"name": "g"',
    '<tool_call>{"arguments": {"x": [1, {"y": null}]}, "name": "f"}</tool_call>',
    "<tool_call>not json</tool_call> <tool_call>{}</tool_call> <tool_call>[1, </tool_call>",
    " \n <tool_ca <tool_call><tool_call>" + CALL + " \n",
    '<tool_call>{"name": "x"}\nraw </tool_call> {"a"\n</tool_call>\n</tool_call>',
]
ALPHABET = [
    *"<tool_call>",
    START,
    END,
    *'{}[],:"\\\n 1ae',
    '{"name": "',
    '", "arguments": ',
    "\\u00e9",
    "\\ud83d",
    CALL,
]


@given(st.one_of(st.sampled_from(SAMPLES), st.lists(st.sampled_from(ALPHABET)).map("".join)), st.data())
@settings(max_examples=examples(few=50, full=1000), deadline=None)
def test_parser_gives_same_result_for_every_split(text: str, data: st.DataObject) -> None:
    """However the text of an answer is cut into pieces, and whatever it is."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for forced_names in ([], ["f", "ff"]):
        whole = parse([text], ToolCallParser(forced_names))
        assert parse(pieces, ToolCallParser(forced_names)) == whole
        assert parse(list(text), ToolCallParser(forced_names)) == whole
    if not any(isinstance(piece, CallStart) for piece in parse([text])):
        assert "".join(piece.text for piece in parse([text]) if isinstance(piece, TextPiece)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b", ["a", " <b"]),
        ("<tool_cat", ["<tool_cat"]),
        ("<tool_call> no", ["<tool_call> n", "o"]),
        ('<tool_call>{"n": ?}', ['<tool_call>{"n": ?', "}"]),
    ],
)
def test_parser_holds_text_back_no_longer_than_needed(text: str, expected: list[str]) -> None:
    """Until the first character that no call has there."""
    parser = ToolCallParser()
    shown = [piece.text for char in text for piece in parser.feed(char) if isinstance(piece, TextPiece)]
    assert shown[-len(expected) :] == expected
    assert "".join(shown) == text
    assert parser.flush() == []


def test_parser_streams_arguments_as_written() -> None:
    """From their first character on, blanks included."""
    parser = ToolCallParser()
    assert parser.feed('<tool_call>\n{"name": "f", "arguments": ') == []
    assert parser.feed("{") == [CallStart("f"), CallArguments("{")]
    assert parser.feed('"a":') == [CallArguments('"a":')]
    assert parser.feed("1 }") == [CallArguments("1 }")]
    assert parser.feed("}\n</tool_call>") == [CallEnd(is_complete=True)]


@pytest.mark.parametrize("length", range(len(CALL) + 1))
def test_parser_forced_call_is_no_text_wherever_it_breaks_off(length: int) -> None:
    """With the name of the function as soon as no other one is possible."""
    parsed = parse([CALL[:length]], ToolCallParser(forced_names=["f"]))
    assert parsed[0] == CallStart("f")
    assert parsed[-1] == CallEnd(is_complete=length >= CALL.index("}") + 1)
    several = parse([CALL[:length]], ToolCallParser(forced_names=["f", "ff"]))
    assert several == (parsed if length >= CALL.index('",') + 1 else [])
