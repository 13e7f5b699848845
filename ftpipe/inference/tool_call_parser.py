"""Parse tool calls from a model's text, in the format of most open chat templates."""

from __future__ import annotations

import json
from typing import Any

START, END = "<tool_call>", "</tool_call>"


def parse_tool_calls(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """The text around the calls, and the calls without ids; ``None`` if no call can be parsed.

    Parses ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, also with a list of calls inside.
    """
    blocks, rest = _split(text)
    calls = [call for block in blocks for call in _calls_in(block)]
    if not calls:
        return None
    return rest.strip(), calls


def _split(text: str) -> tuple[list[str], str]:
    """What is between the tags, and the text around them; in one pass over the text."""
    blocks: list[str] = []
    rest: list[str] = []
    position = 0
    while True:
        start = text.find(START, position)
        end = text.find(END, start + len(START)) if start >= 0 else -1
        if end < 0:
            return blocks, "".join([*rest, text[position:]])
        rest.append(text[position:start])
        blocks.append(text[start + len(START) : end])
        position = end + len(END)


def _calls_in(block: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(block)
        calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return []
    return [call for call in calls if call is not None]


def _call(item: object) -> dict[str, Any] | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "function": {"name": item["name"], "arguments": text}}
