"""Parse tool calls from a model's text as it comes, in the format of most open chat templates.

``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, also with a list of calls inside. The arguments are passed on
as the model wrote them. Text is held back only while it can still become a call.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import regex

from ftpipe.inference.detokenizer import partial_suffix_length
from ftpipe.inference.json_scanner import JsonScanner, JsonStringDecoder

START, END = "<tool_call>", "</tool_call>"
END_ON_NEW_LINE = f"\n{END}"
"""Within the arguments this is their end: JSON has no line break in a string."""

_NAME = r'\s{0,64}\{\s{0,64}"name"\s{0,64}:\s{0,64}"(?P<name>(?:[^"\\\x00-\x1f]|\\.){0,256})"'
_HEADER = regex.compile(
    rf'{_NAME}\s{{0,64}},\s{{0,64}}"(?:arguments|parameters)"\s{{0,64}}:\s{{0,64}}(?P<value>[0-9tfn"{{\[-])'
)
_NAME_START = regex.compile(r'"name"\s{0,64}:\s{0,64}"(?P<name>[^"\\]*)')
_BLOCK = regex.compile(r"\s{0,64}[{\[]")
_CLOSE = regex.compile(r"\s{0,64}(?:\}\s{0,64})?</tool_call>")
_CLOSE_WITHOUT_END = regex.compile(r"\s{0,64}\}")
_MORE_KEYS = regex.compile(r"\s{0,64}(?=,)")


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text outside calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of a function begins."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments of the call that was begun last."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The arguments of the call that was begun last are whole, or broken off."""

    is_complete: bool


ParsedPiece = TextPiece | CallStart | CallArguments | CallEnd


class _State(Enum):
    TEXT = auto()
    HEADER = auto()
    BLOCK = auto()
    ARGUMENTS = auto()
    STRING_ARGUMENTS = auto()
    BROKEN_ARGUMENTS = auto()
    AFTER_ARGUMENTS = auto()
    MORE_KEYS = auto()


class ToolCallParser:
    """Splits a text into calls and what is around them; how the text is cut into pieces makes no difference.

    Args:
        forced_names: The text is a call of one of these; if it breaks off within the name, it is still no text.
    """

    def __init__(self, forced_names: Collection[str] = ()) -> None:
        self._forced_names = forced_names
        self._state = _State.TEXT
        self._pending = ""
        self._blanks = ""
        """Blanks at the end of the text so far: they are dropped if only calls follow."""
        self._has_text = False
        self._call_count = 0
        self._scanner = JsonScanner(is_strict=True)
        self._scanned = 0
        """Characters of ``_pending`` that the scanner has read."""
        self._decoder = JsonStringDecoder()

    def feed(self, text: str) -> list[ParsedPiece]:
        """What is certain after one more piece of text."""
        self._pending += text
        pieces: list[ParsedPiece] = []
        while True:
            before = self._state, len(self._pending)
            pieces += self._advance()
            if (self._state, len(self._pending)) == before:
                return _joined(pieces)

    def flush(self) -> list[ParsedPiece]:
        """What is left at the end of the text."""
        pieces: list[ParsedPiece] = []
        while self._state in (_State.HEADER, _State.BLOCK):
            if call := self._broken_off_call():
                return [*pieces, *call]
            if self._forced_names and not self._call_count and self._state is _State.HEADER:
                self._pending, self._state = "", _State.TEXT
                return pieces
            pieces += self._release_start()
            pieces += self.feed("")
        pieces += self._last_pieces()
        self._pending = self._blanks = ""
        return _joined(pieces)

    def _last_pieces(self) -> Iterator[ParsedPiece]:
        state, self._state = self._state, _State.TEXT
        if state is _State.TEXT:
            if self._forced_names and not self._has_text and not self._call_count:
                yield from self._broken_off_call()
                return
            yield from self._text(self._pending)
            if self._blanks and not self._call_count:
                yield TextPiece(self._blanks)
        elif state is _State.ARGUMENTS:
            yield from _arguments(self._pending)
            yield CallEnd(self._is_atom_complete())
        elif state is _State.STRING_ARGUMENTS:
            yield from _arguments(self._decoder.flush())
            yield CallEnd(is_complete=False)
        elif state is _State.BROKEN_ARGUMENTS:
            yield from _arguments(self._pending)
            yield CallEnd(is_complete=False)
        else:
            yield CallEnd(is_complete=True)

    def _advance(self) -> list[ParsedPiece]:
        return list(_STEPS[self._state](self))

    def _read_text(self) -> Iterator[ParsedPiece]:
        start = self._pending.find(START)
        if start >= 0:
            yield from self._text(self._take(start))
            self._take(len(START))
            self._state = _State.HEADER
        else:
            yield from self._text(self._take(len(self._pending) - partial_suffix_length(self._pending, START)))

    def _text(self, text: str) -> Iterator[ParsedPiece]:
        whole = self._blanks + text
        visible = whole.rstrip()
        self._blanks = whole[len(visible) :]
        if visible:
            self._has_text = True
            yield TextPiece(visible)

    def _read_header(self) -> Iterator[ParsedPiece]:
        match = _HEADER.match(self._pending, partial=True)
        if match and match.partial:
            return
        if match is None:
            self._state, self._scanner, self._scanned = _State.BLOCK, JsonScanner(is_strict=True), 0
            return
        name = _decoded(match["name"])
        self._take(match.start("value"))
        if match["value"] == '"':
            self._take(1)
            self._decoder = JsonStringDecoder()
            yield from self._begin_call(name, _State.STRING_ARGUMENTS)
        else:
            self._scanner = JsonScanner(is_strict=False)
            yield from self._begin_call(name, _State.ARGUMENTS)

    def _begin_call(self, name: str, state: _State) -> Iterator[ParsedPiece]:
        self._state = state
        self._call_count += 1
        if not self._has_text:
            self._blanks = ""
        yield CallStart(name)

    def _release_start(self) -> Iterator[ParsedPiece]:
        """What follows the tag is no call, so that the tag is text."""
        self._state = _State.TEXT
        yield from self._text(START)

    def _read_block(self) -> Iterator[ParsedPiece]:
        """A call in another order, or a list of calls: it is read as a whole."""
        self._scanned = self._scanner.scan(self._pending, self._scanned)
        if self._scanner.is_invalid or not _BLOCK.match(self._pending):
            yield from self._release_start()
        elif self._scanner.is_complete:
            calls = _calls_in(self._pending[: self._scanned])
            if not calls:
                yield from self._release_start()
                return
            self._take(self._scanned)
            for number, (name, arguments) in enumerate(calls, 1):
                yield from self._begin_call(name, _State.AFTER_ARGUMENTS)
                yield from _arguments(arguments)
                if number < len(calls):
                    yield CallEnd(is_complete=True)

    def _read_arguments(self) -> Iterator[ParsedPiece]:
        end = self._pending.find(END_ON_NEW_LINE)
        known = len(self._pending) - partial_suffix_length(self._pending, END_ON_NEW_LINE) if end < 0 else end
        position = self._scanner.scan(self._pending[:known])
        yield from _arguments(self._take(position))
        if self._scanner.is_complete or (end >= 0 and position == end):
            is_complete = self._scanner.is_complete or self._is_atom_complete()
            self._state = _State.AFTER_ARGUMENTS
            if not is_complete:
                yield from self._end_call(is_complete=False, length=len(END_ON_NEW_LINE))
        elif self._scanner.is_invalid:
            self._state = _State.BROKEN_ARGUMENTS

    def _is_atom_complete(self) -> bool:
        """True for a number or a word that ends with the text, which only then is known to be whole."""
        self._scanner.scan(" ")
        return self._scanner.is_complete

    def _read_string_arguments(self) -> Iterator[ParsedPiece]:
        text, rest = self._decoder.decode(self._take(len(self._pending)))
        yield from _arguments(text)
        if self._decoder.is_complete:
            self._pending, self._state = rest, _State.AFTER_ARGUMENTS

    def _read_broken_arguments(self) -> Iterator[ParsedPiece]:
        end = self._pending.find(END)
        if end >= 0:
            yield from _arguments(self._take(end))
            yield from self._end_call(is_complete=False, length=len(END))
        else:
            yield from _arguments(self._take(len(self._pending) - partial_suffix_length(self._pending, END)))

    def _read_after_arguments(self) -> Iterator[ParsedPiece]:
        match = _CLOSE.match(self._pending, partial=True)
        if match and match.partial:
            return
        if match is None and (more := _MORE_KEYS.match(self._pending)):
            self._take(more.end())
            self._state, self._scanner = _State.MORE_KEYS, JsonScanner(is_strict=True, is_in_object=True)
            return
        match = match or _CLOSE_WITHOUT_END.match(self._pending)
        yield from self._end_call(is_complete=True, length=match.end() if match else 0)

    def _read_more_keys(self) -> Iterator[ParsedPiece]:
        """Keys that a call does not have: they are left out."""
        position = self._scanner.scan(self._pending)
        self._take(position)
        if self._scanner.is_complete:
            self._state = _State.AFTER_ARGUMENTS
        elif self._scanner.is_invalid:
            yield from self._end_call(is_complete=True, length=0)

    def _end_call(self, *, is_complete: bool, length: int) -> Iterator[ParsedPiece]:
        self._take(length)
        self._state = _State.TEXT
        yield CallEnd(is_complete)

    def _broken_off_call(self) -> list[ParsedPiece]:
        """The call of which no more than the beginning was written, if it is known which function it calls."""
        if self._state is _State.BLOCK:
            return []
        if match := regex.match(_NAME, self._pending):
            names = [_decoded(match["name"])]
        elif self._forced_names and not self._call_count:
            start = _NAME_START.search(self._pending)
            names = [name for name in self._forced_names if name.startswith(start["name"] if start else "")]
        else:
            return []
        self._pending = ""
        if len(names) != 1:
            return []
        return [*self._begin_call(names[0], _State.TEXT), CallEnd(is_complete=False)]

    def _take(self, length: int) -> str:
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken


_STEPS = {
    _State.TEXT: ToolCallParser._read_text,
    _State.HEADER: ToolCallParser._read_header,
    _State.BLOCK: ToolCallParser._read_block,
    _State.ARGUMENTS: ToolCallParser._read_arguments,
    _State.STRING_ARGUMENTS: ToolCallParser._read_string_arguments,
    _State.BROKEN_ARGUMENTS: ToolCallParser._read_broken_arguments,
    _State.AFTER_ARGUMENTS: ToolCallParser._read_after_arguments,
    _State.MORE_KEYS: ToolCallParser._read_more_keys,
}


def parse_tool_calls(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """The text around the calls, and the calls without ids; ``None`` if there is no call."""
    parser = ToolCallParser()
    rest: list[str] = []
    calls: list[dict[str, Any]] = []
    for piece in [*parser.feed(text), *parser.flush()]:
        if isinstance(piece, TextPiece):
            rest.append(piece.text)
        elif isinstance(piece, CallStart):
            calls.append({"type": "function", "function": {"name": piece.name, "arguments": ""}})
        elif isinstance(piece, CallArguments):
            calls[-1]["function"]["arguments"] += piece.text
    return ("".join(rest).strip(), calls) if calls else None


def _arguments(text: str) -> Iterator[ParsedPiece]:
    if text:
        yield CallArguments(text)


def _joined(pieces: list[ParsedPiece]) -> list[ParsedPiece]:
    """Neighbours of one kind as one piece."""
    joined: list[ParsedPiece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, TextPiece) and isinstance(last, TextPiece):
            joined[-1] = TextPiece(last.text + piece.text)
        elif isinstance(piece, CallArguments) and isinstance(last, CallArguments):
            joined[-1] = CallArguments(last.text + piece.text)
        else:
            joined.append(piece)
    return joined


def _decoded(name: str) -> str:
    """A name as JSON writes it, without its escapes."""
    decoded, _ = JsonStringDecoder().decode(f'{name}"')
    return decoded


def _calls_in(block: str) -> list[tuple[str, str]]:
    try:
        value = json.loads(block)
        calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return []
    return [call for call in calls if call is not None]


def _call(item: object) -> tuple[str, str] | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return _without_surrogates(item["name"]), _without_surrogates(text)


def _without_surrogates(text: str) -> str:
    """Halves of characters, which no JSON text of an answer may have, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
