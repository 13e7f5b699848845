"""Parse tool calls from a model's text, in the format of most open chat templates."""

from __future__ import annotations

import json
import re
from typing import Any

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def parse_tool_calls(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """The text around the calls, and the calls without ids; ``None`` if no call can be parsed.

    Parses ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, also with a list of calls inside.
    """
    calls = [call for block in _CALL.findall(text) for call in _calls_in(block)]
    if not calls:
        return None
    return _CALL.sub("", text).strip(), calls


def _calls_in(block: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(block)
    except (ValueError, RecursionError):
        return []
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None]


def _call(item: object) -> dict[str, Any] | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "function": {"name": item["name"], "arguments": text}}
