"""Safe fixes of one record: they keep its meaning and remove nothing, neither text nor keys nor messages.

Each changes the record in place and returns how much it fixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ftpipe.dataset.formats import message_lists

Record = dict[str, Any]
Fixer = Callable[[Record, str], int]


def messages_of(record: Record, kind: str) -> Iterator[Record]:
    """Every message that is an object."""
    for _, messages in message_lists(record, kind):
        if isinstance(messages, list):
            yield from (message for message in messages if isinstance(message, dict))


def calls_of(record: Record, kind: str) -> Iterator[Record]:
    """Every tool call that is an object."""
    for message in messages_of(record, kind):
        listed = message.get("tool_calls")
        yield from (call for call in (listed if isinstance(listed, list) else ()) if isinstance(call, dict))


def flatten_parts(record: Record, kind: str) -> int:
    """FT207: join text parts into one string in roles that accept only a string; parts with other keys stay."""
    fixed = 0
    for message in messages_of(record, kind):
        content = message.get("content")
        if message.get("role") not in ("system", "developer", "tool", "function") or not isinstance(content, list):
            continue
        texts = [part["text"] for part in content if isinstance(part, dict) and part.keys() == {"type", "text"}]
        if content and len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            message["content"] = "".join(text for text in texts if isinstance(text, str))
            fixed += 1
    return fixed


def normalize_weights(record: Record, kind: str) -> int:
    """FT215: write 1.0 as 1, 0.0 and false as 0, true as 1."""
    fixed = 0
    for message in messages_of(record, kind):
        weight = message.get("weight")
        if isinstance(weight, float | bool) and weight in (0, 1):
            message["weight"] = int(weight)
            fixed += 1
    return fixed


def developer_to_system(record: Record, kind: str) -> int:
    """FT219: use system, the role of the supervised schema."""
    return _rename_role(record, kind, "developer", "system") if kind in ("chat", "dpo") else 0


def system_to_developer(record: Record, kind: str) -> int:
    """FT602: use developer, the role of the reinforcement schema."""
    return _rename_role(record, kind, "system", "developer") if kind == "rft" else 0


def _rename_role(record: Record, kind: str, old: str, new: str) -> int:
    fixed = 0
    for message in messages_of(record, kind):
        if message.get("role") == old:
            message["role"] = new
            fixed += 1
    return fixed


def arguments_to_text(record: Record, kind: str) -> int:
    """FT303: write arguments that are an object as a JSON string, as the API defines."""
    fixed = 0
    functions = [call.get("function") for call in calls_of(record, kind)]
    functions += [message.get("function_call") for message in messages_of(record, kind)]
    for function in functions:
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict | list):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
            fixed += 1
    return fixed


def deduplicate_call_ids(record: Record, kind: str) -> int:
    """FT307: number equal call ids in one message from the second on; their results get the new ids in order."""
    fixed = 0
    unanswered: dict[str, list[str]] = {}
    for message in messages_of(record, kind):
        listed = message.get("tool_calls")
        known: set[str] = set()
        for index, call in enumerate(listed if isinstance(listed, list) else ()):
            name = call.get("id") if isinstance(call, dict) else None
            if not isinstance(name, str):
                continue
            if name in known:
                call["id"] = f"{name}-{index + 1}"
                fixed += 1
            known.add(name)
            unanswered.setdefault(name, []).append(call["id"])
        call_id = message.get("tool_call_id")
        if message.get("role") == "tool" and isinstance(call_id, str) and len(unanswered.get(call_id, ())) > 0:
            message["tool_call_id"] = unanswered[call_id].pop(0)
    return fixed


def add_call_type(record: Record, kind: str) -> int:
    """FT311: add ``"type": "function"``."""
    fixed = 0
    for call in calls_of(record, kind):
        if "type" not in call and isinstance(call.get("function"), dict):
            call["type"] = "function"
            fixed += 1
    return fixed


SAFE: dict[str, Fixer] = {
    "FT207": flatten_parts,
    "FT215": normalize_weights,
    "FT219": developer_to_system,
    "FT303": arguments_to_text,
    "FT307": deduplicate_call_ids,
    "FT311": add_call_type,
    "FT602": system_to_developer,
}
