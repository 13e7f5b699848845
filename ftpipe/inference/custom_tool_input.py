"""Custom tools, whose input is a text: models see them as functions that take the text as their only argument."""

from __future__ import annotations

import json
from typing import Any

import regex

from ftpipe.inference.json_scanner import JsonStringDecoder

_INPUT = "input"
_START = regex.compile(rf'\s{{0,64}}\{{\s{{0,64}}"{_INPUT}"\s{{0,64}}:\s{{0,64}}"')


def custom_tool_parameters(pattern: str | None = None) -> dict[str, Any]:
    """The parameters of the function that stands for a custom tool.

    Args:
        pattern: A regular expression that the whole input must match.
    """
    text = {"type": "string"} if pattern is None else {"type": "string", "pattern": f"^(?:{pattern})$"}
    return {"type": "object", "properties": {_INPUT: text}, "required": [_INPUT], "additionalProperties": False}


def custom_tool_arguments(text: str) -> str:
    """The arguments of an earlier call, from its input."""
    return json.dumps({_INPUT: text}, ensure_ascii=False)


class CustomInputReader:
    """Reads the input of a custom tool from the arguments of its call, which come in pieces.

    Arguments that are no object with the input are passed on as they are: models also write the input alone.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._decoder: JsonStringDecoder | None = None
        self._is_raw = False

    def read(self, arguments: str) -> str:
        """What is certain of the input after one more piece."""
        if self._is_raw:
            return arguments
        if self._decoder is None:
            arguments, self._pending = self._pending + arguments, ""
            match = _START.match(arguments, partial=True)
            if match is None:
                self._is_raw = True
                return arguments
            if match.partial:
                self._pending = arguments
                return ""
            self._decoder = JsonStringDecoder()
            arguments = arguments[match.end() :]
        return "" if self._decoder.is_complete else self._decoder.decode(arguments)[0]

    def flush(self, *, is_complete: bool) -> str:
        """What is left of the input.

        Args:
            is_complete: Whether the arguments are; the start of an object that broke off has no input.
        """
        if self._decoder is not None:
            return self._decoder.flush()
        return self._pending if is_complete else ""
