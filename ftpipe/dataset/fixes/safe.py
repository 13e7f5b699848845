"""Safe fixes of one record: they keep its meaning. Each changes it in place and says how many places it mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ftpipe.dataset.formats import CHAT_KEYS, DPO_KEYS, message_lists
from ftpipe.dataset.rules.messages.fields import MESSAGE_KEYS

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


def drop_extra_keys(record: Record, kind: str) -> int:
    """FT110: remove the top-level keys that the format does not have; the caller keeps them in the sidecar."""
    known = frozenset(DPO_KEYS) if kind == "dpo" else CHAT_KEYS
    extra = (
        [key for key in record if key not in known]
        if kind in ("chat", "dpo") and not record.keys().isdisjoint(known)
        else []
    )
    for key in extra:
        del record[key]
    return len(extra)


def flatten_parts(record: Record, kind: str) -> int:
    """FT207: join text parts to one string where only a string is read."""
    done = 0
    for message in messages_of(record, kind):
        content = message.get("content")
        if message.get("role") not in ("system", "developer", "tool", "function") or not isinstance(content, list):
            continue
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if content and len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            message["content"] = "".join(text for text in texts if isinstance(text, str))
            done += 1
    return done


def drop_message_keys(record: Record, kind: str) -> int:
    """FT214: remove the keys of messages that the API does not know."""
    done = 0
    for message in messages_of(record, kind):
        for key in [key for key in message if key not in MESSAGE_KEYS]:
            del message[key]
            done += 1
    return done


def normalize_weights(record: Record, kind: str) -> int:
    """FT215: write 1.0 as 1, 0.0 and false as 0, true as 1."""
    done = 0
    for message in messages_of(record, kind):
        weight = message.get("weight")
        if isinstance(weight, float | bool) and weight in (0, 1):
            message["weight"] = int(weight)
            done += 1
    return done


def developer_to_system(record: Record, kind: str) -> int:
    """FT219: the supervised schema has system."""
    return _rename_role(record, kind, "developer", "system") if kind in ("chat", "dpo") else 0


def system_to_developer(record: Record, kind: str) -> int:
    """FT602: the reinforcement schema has developer."""
    return _rename_role(record, kind, "system", "developer") if kind == "rft" else 0


def _rename_role(record: Record, kind: str, old: str, new: str) -> int:
    done = 0
    for message in messages_of(record, kind):
        if message.get("role") == old:
            message["role"] = new
            done += 1
    return done


def arguments_to_text(record: Record, kind: str) -> int:
    """FT303: write an object of arguments as the JSON string that the API defines."""
    done = 0
    functions = [call.get("function") for call in calls_of(record, kind)]
    functions += [message.get("function_call") for message in messages_of(record, kind)]
    for function in functions:
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict | list):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
            done += 1
    return done


def deduplicate_call_ids(record: Record, kind: str) -> int:
    """FT307: give the later ones of equal ids in one message a number; their results follow in order."""
    done = 0
    waiting: dict[str, list[str]] = {}
    for message in messages_of(record, kind):
        listed = message.get("tool_calls")
        seen: set[str] = set()
        for place, call in enumerate(listed if isinstance(listed, list) else ()):
            name = call.get("id") if isinstance(call, dict) else None
            if not isinstance(name, str):
                continue
            if name in seen:
                call["id"] = f"{name}-{place + 1}"
                done += 1
            seen.add(name)
            waiting.setdefault(name, []).append(call["id"])
        answered = message.get("tool_call_id")
        if message.get("role") == "tool" and isinstance(answered, str) and len(waiting.get(answered, ())) > 0:
            message["tool_call_id"] = waiting[answered].pop(0)
    return done


def add_call_type(record: Record, kind: str) -> int:
    """FT311: add ``"type": "function"``."""
    done = 0
    for call in calls_of(record, kind):
        if "type" not in call and isinstance(call.get("function"), dict):
            call["type"] = "function"
            done += 1
    return done


def strip_answers(record: Record, kind: str) -> int:
    """FT812: strip blanks around answers."""
    done = 0
    for message in messages_of(record, kind):
        content = message.get("content")
        if message.get("role") == "assistant" and isinstance(content, str) and content.strip() not in ("", content):
            message["content"] = content.strip()
            done += 1
    return done


SAFE: dict[str, Fixer] = {
    "FT110": drop_extra_keys,
    "FT207": flatten_parts,
    "FT214": drop_message_keys,
    "FT215": normalize_weights,
    "FT219": developer_to_system,
    "FT303": arguments_to_text,
    "FT307": deduplicate_call_ids,
    "FT311": add_call_type,
    "FT602": system_to_developer,
    "FT812": strip_answers,
}
