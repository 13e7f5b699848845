"""Find the end of a JSON value whose text comes in pieces.

Why not a library: ``json`` and ``orjson`` parse whole texts, and ``ijson`` gives values instead of the text that was
written, which a streamed tool call has to pass on as it is.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import regex

MAX_DEPTH = 512
"""Of nested lists and objects."""

_PLAIN_TEXT = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE = regex.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_ATOM = re.compile(r"[-+.\w]+", re.ASCII)
_BLANKS = " \t\n\r"
_SHORT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class _State(Enum):
    VALUE = auto()
    VALUE_OR_CLOSE = auto()
    KEY = auto()
    KEY_OR_CLOSE = auto()
    COLON = auto()
    AFTER_VALUE = auto()
    STRING = auto()
    ESCAPE = auto()
    ATOM = auto()


class JsonScanner:
    """Reads one JSON value, character by character.

    Args:
        is_strict: Line breaks and other control characters in a string make the value invalid, as JSON has it.
        is_in_object: Begin within an object, behind one of its values.

    Attributes:
        is_complete: The value has ended.
        is_invalid: The text is not JSON; nothing more is read.
    """

    def __init__(self, *, is_strict: bool, is_in_object: bool = False) -> None:
        self.is_complete = False
        self.is_invalid = False
        self._is_strict = is_strict
        self._closers = ["}"] if is_in_object else []
        self._state = _State.AFTER_VALUE if is_in_object else _State.VALUE
        self._is_key = False

    def scan(self, text: str, position: int = 0) -> int:
        """Read on from a position; returns the position behind the last character that belongs to the value."""
        while position < len(text) and not self.is_complete and not self.is_invalid:
            if self._state is _State.STRING and (plain := _PLAIN_TEXT.match(text, position)):
                position = plain.end()
            elif self._state is _State.ATOM:
                end = atom.end() if (atom := _ATOM.match(text, position)) else position
                if end < len(text):
                    self._end_value()
                position = end
            else:
                self._step(text[position])
                position += not self.is_invalid
        return position

    def _step(self, char: str) -> None:
        state = self._state
        if state is _State.STRING:
            self._step_in_string(char)
        elif state is _State.ESCAPE:
            self._state = _State.STRING
        elif char in _BLANKS:
            return
        elif self._closers and char == self._closers[-1] and state in _CLOSABLE:
            self._closers.pop()
            self._end_value()
        elif state is _State.AFTER_VALUE and char == ",":
            self._state = _State.KEY if self._closers[-1] == "}" else _State.VALUE
        elif state is _State.COLON and char == ":":
            self._state = _State.VALUE
        elif state in (_State.KEY, _State.KEY_OR_CLOSE) and char == '"':
            self._state, self._is_key = _State.STRING, True
        elif state in (_State.VALUE, _State.VALUE_OR_CLOSE):
            self._begin_value(char)
        else:
            self.is_invalid = True

    def _step_in_string(self, char: str) -> None:
        if char == "\\":
            self._state = _State.ESCAPE
        elif char != '"':
            self.is_invalid = self._is_strict
        elif self._is_key:
            self._state, self._is_key = _State.COLON, False
        else:
            self._end_value()

    def _begin_value(self, char: str) -> None:
        if char in "{[":
            self._closers.append("}" if char == "{" else "]")
            self._state = _State.KEY_OR_CLOSE if char == "{" else _State.VALUE_OR_CLOSE
            self.is_invalid = len(self._closers) > MAX_DEPTH
        elif char == '"':
            self._state = _State.STRING
        elif _ATOM.match(char):
            self._state = _State.ATOM
        else:
            self.is_invalid = True

    def _end_value(self) -> None:
        self._state = _State.AFTER_VALUE
        self.is_complete = not self._closers


_CLOSABLE = (_State.AFTER_VALUE, _State.KEY_OR_CLOSE, _State.VALUE_OR_CLOSE)


class JsonStringDecoder:
    """Decodes the inside of a JSON string that comes in pieces, up to its closing quotation mark.

    Attributes:
        is_complete: The closing quotation mark was read.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._pending = ""
        self._high_surrogate = ""

    def decode(self, text: str) -> tuple[str, str]:
        """What is certain of the string after one more piece, and the text behind its end."""
        self._pending += text
        pieces: list[str] = []
        position = 0
        while position < len(self._pending):
            if plain := _PLAIN_TEXT.match(self._pending, position):
                pieces.append(self._unpaired() + plain.group())
                position = plain.end()
            elif self._pending[position] == '"':
                self.is_complete = True
                pieces.append(self._unpaired())
                rest, self._pending = self._pending[position + 1 :], ""
                return "".join(pieces), rest
            elif (escape := _ESCAPE.match(self._pending, position, partial=True)) is None:
                pieces.append(self._unpaired() + self._pending[position])
                position += 1
            elif escape.partial:
                break
            else:
                pieces.append(self._unescape(escape.group()))
                position = escape.end()
        self._pending = self._pending[position:]
        return "".join(pieces), ""

    def flush(self) -> str:
        """What is left of a string that was not closed."""
        rest, self._pending = self._unpaired(), ""
        return rest

    def _unescape(self, escape: str) -> str:
        if escape[1] != "u":
            return self._unpaired() + _SHORT_ESCAPES.get(escape[1], escape[1])
        code = int(escape[2:], 16)
        if 0xDC00 <= code < 0xE000 and self._high_surrogate:
            pair, self._high_surrogate = self._high_surrogate + chr(code), ""
            return pair.encode("utf-16", "surrogatepass").decode("utf-16")
        unpaired = self._unpaired()
        if 0xD800 <= code < 0xDC00:
            self._high_surrogate = chr(code)
            return unpaired
        return unpaired + ("\ufffd" if 0xDC00 <= code < 0xE000 else chr(code))

    def _unpaired(self) -> str:
        """The replacement of a half of a character whose other half did not come."""
        replacement = "\ufffd" if self._high_surrogate else ""
        self._high_surrogate = ""
        return replacement
