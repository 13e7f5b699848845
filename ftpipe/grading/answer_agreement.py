"""Decide whether two answers to the same request agree: by text, JSON document or tool calls."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ftpipe.grading.json_values import MISSING, comparable, parse_json

_FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\Z", re.DOTALL)
_WRAPPING = " \t\r\n\"'`*_.,;:!?“”‘’„«»"


def canonical_answer(message: Mapping[str, Any]) -> str:
    """A text that two answers have in common exactly if they agree.

    Tool calls agree if they have the same names and arguments, in any order. Texts that are JSON objects or lists agree
    if the documents are equal. Other texts agree if they are equal after normalization.

    Args:
        message: An assistant's message in OpenAI's form; nothing in it is trusted to have the right type.
    """
    calls = message.get("tool_calls")
    if isinstance(message.get("function_call"), Mapping):
        calls = [{"function": message["function_call"]}]
    if isinstance(calls, Sequence) and not isinstance(calls, str) and calls:
        return "tool calls " + "\n".join(sorted(_canonical_call(call) for call in calls))
    text = answer_text(message)
    value = parse_json(_without_fence(text.strip()))
    return f"json {comparable(value)}" if isinstance(value, dict | list) else f"text {normalize(text)}"


def answer_text(message: Mapping[str, Any]) -> str:
    """The text of an answer, or of its refusal."""
    return next((text for name in ("content", "refusal") if isinstance(text := message.get(name), str) and text), "")


def normalize(text: str) -> str:
    """The text in lower case, without extra white space, code fence, quotes and final punctuation."""
    inner = _without_fence(unicodedata.normalize("NFKC", text).strip())
    return " ".join(inner.casefold().split()).strip(_WRAPPING)


def _without_fence(text: str) -> str:
    fenced = _FENCE.match(text)
    return fenced.group(1) if fenced else text


def _canonical_call(call: object) -> str:
    custom = call.get("custom") if isinstance(call, Mapping) else None
    if isinstance(custom, Mapping):
        return comparable([custom.get("name"), custom.get("input")])
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return comparable(str(call))
    arguments = function.get("arguments")
    parsed = parse_json(arguments) if isinstance(arguments, str) else arguments
    return comparable([function.get("name"), arguments if parsed is MISSING else parsed])
