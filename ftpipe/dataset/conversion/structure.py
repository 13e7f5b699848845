"""Recognises messages, lists of messages and calls, also where they are written as text."""

from __future__ import annotations

import ast
import re
from typing import Any

import orjson

from ftpipe.dataset.conversion.row import SkipRow

MAX_LITERAL_CHARACTERS = 1_000_000
"""Longest Python literal that is parsed."""
CALL, RESULT = "call", "tool"
ROLE_OF_SPEAKER = {
    **dict.fromkeys(("human", "user", "prompter", "usermessage", "humanmessage", "customer"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot", "ai", "chatbot"), "assistant"),
    **dict.fromkeys(("aimessage", "agent", "assistantmessage"), "assistant"),
    **dict.fromkeys(("system", "systemmessage"), "system"),
    "developer": "developer",
    **dict.fromkeys(("functioncall", "toolcall"), CALL),
    **dict.fromkeys(("observation", "tool", "function", "functionresponse", "toolresponse", "ipython"), RESULT),
    **dict.fromkeys(("toolmessage", "functioncalloutput"), RESULT),
}
"""Speaker (lower case, without ``_`` and ``-``) → role. Source: the formats' own documentation, see docs/convert.md."""
SPEAKER_KEYS = ("from", "role", "speaker", "author", "sender")
_CONTENT_KEYS = {
    *("content", "value", "parts", "text", "message", "tool_calls", "function_call", "tool_use", "kwargs", "data"),
    *("refusal", "reasoning_content", "call_id"),
}
_CERTAIN_KEYS = frozenset(
    {
        *("role", "from", "content", "value", "name", "weight", "train", "loss", "tool_calls", "tool_call_id"),
        *("function_call", "refusal", "audio", "annotations", "reasoning_content"),
    }
)
_LITERAL_START = re.compile(r"[\[({]\s*[\[({]?\s*'")


def parse_structure(text: str) -> Any:  # noqa: ANN401  # any JSON value
    """The value of a text that is JSON or a Python literal; ``None`` if it is neither."""
    start = text.lstrip()[:1]
    if start not in ("[", "{"):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    if len(text) > MAX_LITERAL_CHARACTERS or not _LITERAL_START.match(text.lstrip()):
        return None
    try:
        return orjson.loads(orjson.dumps(ast.literal_eval(text.strip())))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def require_structure(path: str, value: object) -> Any:  # noqa: ANN401  # any JSON value
    """A value that may be written as text.

    Raises:
        SkipRow: The text is not JSON.
    """
    if not isinstance(value, str):
        return value
    parsed = parse_structure(value)
    if parsed is None:
        printed = " (it seems to be printed by Python; save the data as JSON)" if _LITERAL_START.match(value) else ""
        raise SkipRow(path, f"it is not JSON{printed}")
    return parsed


def role_of(speaker: object) -> str | None:
    """The role of a speaker; ``None`` if it is unknown."""
    name = speaker.get("role") if isinstance(speaker, dict) else speaker
    return ROLE_OF_SPEAKER.get(re.sub(r"[\s_-]+", "", name.lower())) if isinstance(name, str) else None


def is_message(value: object) -> bool:
    """True for an object that says who speaks, and what."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("parts"), list) and "role" not in value:
        return True  # Vertex AI: the user's
    if _CONTENT_KEYS & value.keys():
        speaker = next((value[key] for key in SPEAKER_KEYS if key in value), None)
        if isinstance(speaker, str | dict):
            return True
        return role_of(value.get("type")) is not None or _is_langchain(value)
    return value.get("type") == "function_call_output"


def _is_certain_message(value: object) -> bool:
    if not is_message(value) or not isinstance(value, dict):
        return False
    return value.keys() <= _CERTAIN_KEYS and role_of(value.get("role", value.get("from"))) is not None


def _is_langchain(value: dict[str, Any]) -> bool:
    return isinstance(value.get("kwargs"), dict) and isinstance(value.get("id"), list)


def as_messages(value: object) -> list[Any] | None:
    """The value as a list of messages; ``None`` if it is not one, nor a text that holds one.

    A text counts only if nothing but messages of known roles is in it: answers that are JSON are common.
    """
    if isinstance(value, str):
        parsed = parse_structure(value)
        messages = [parsed] if isinstance(parsed, dict) else parsed
        is_certain = isinstance(messages, list) and bool(messages) and all(map(_is_certain_message, messages))
        return messages if is_certain else None
    if isinstance(value, dict):
        return [value] if is_message(value) else _by_column(value)
    if isinstance(value, list) and value and all(map(is_message, value)):
        return value
    return None


def _by_column(value: dict[str, Any]) -> list[Any] | None:
    """Messages as ``{"role": […], "content": […]}``, as the datasets library stores a sequence of objects."""
    columns = list(value.values())
    if not _CONTENT_KEYS & value.keys() or not all(isinstance(column, list) and column for column in columns):
        return None
    if len({len(column) for column in columns}) != 1:
        return None
    messages = [dict(zip(value, turn, strict=True)) for turn in zip(*columns, strict=True)]
    return messages if all(map(is_message, messages)) else None


def is_call(value: object) -> bool:
    """True for a tool call without its envelope: a name and arguments."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and any(key in value for key in ("arguments", "args", "parameters", "input"))
    )
