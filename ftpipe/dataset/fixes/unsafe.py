"""Unsafe fixes of one record: they drop or change something. ``DROP`` stands for a record that is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftpipe.dataset.fixes.safe import Fixer, Record, messages_of
from ftpipe.dataset.formats import DPO_KEYS
from ftpipe.dataset.rules.messages.training import has_call
from ftpipe.dataset.rules.quality.text import INVISIBLE, MOJIBAKE
from ftpipe.dataset.sensitive_data import find_personal_data, find_secrets

DROP = -1
_ROLES = {
    "human": "user",
    "bot": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "observation": "tool",
}
_KINDS = ("email", "phone", "card", "iban", "ssn")
_TAGS = {
    "an e-mail address": "[EMAIL]",
    "a phone number": "[PHONE]",
    "a card number": "[CARD]",
    "a bank account (IBAN)": "[IBAN]",
}


def change_texts(value: Any, change: Callable[[str], str]) -> tuple[Any, int]:  # noqa: ANN401  # any JSON value
    """A JSON value with every string changed, keys left alone, and the number of strings that differ."""
    if isinstance(value, str):
        new = change(value)
        return new, int(new != value)
    if isinstance(value, list):
        pairs = [change_texts(item, change) for item in value]
        return [item for item, _ in pairs], sum(done for _, done in pairs)
    if isinstance(value, dict):
        changed = {key: change_texts(item, change) for key, item in value.items()}
        return {key: item for key, (item, _) in changed.items()}, sum(done for _, done in changed.values())
    return value, 0


def _everywhere(change: Callable[[str], str]) -> Fixer:
    def fix(record: Record, kind: str) -> int:
        done = 0
        for message in messages_of(record, kind):
            new, changed = change_texts(message, change)
            message.update(new)
            done += changed
        return done

    return fix


def normalize_roles(record: Record, kind: str) -> int:
    """FT205: use the known role that is meant."""
    done = 0
    for message in messages_of(record, kind):
        meant = _ROLES.get(str(message.get("role")).strip().lower()) or str(message.get("role")).strip().lower()
        if message.get("role") != meant and meant in ("system", "user", "assistant", "tool"):
            message["role"] = meant
            done += 1
    return done


def drop_empty(record: Record, kind: str) -> int:
    """FT208: leave out a record with an empty answer."""
    for message in messages_of(record, kind):
        content = message.get("content")
        is_empty = message.get("role") == "assistant" and isinstance(content, str) and not content.strip()
        if is_empty and not has_call(message):
            return DROP
    return 0


def drop_trailing_messages(record: Record, kind: str) -> int:
    """FT210: drop what follows the last answer."""
    messages = record.get("messages")
    if kind != "chat" or not isinstance(messages, list):
        return 0
    places = [i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "assistant"]
    if not places or places[-1] == len(messages) - 1:
        return 0
    done = len(messages) - 1 - places[-1]
    del messages[places[-1] + 1 :]
    return done


def merge_system_messages(record: Record, kind: str) -> int:
    """FT212: join system messages to one at the front."""
    messages = record.get("messages")
    if kind != "chat" or not isinstance(messages, list):
        return 0
    systems = [
        m for m in messages if isinstance(m, dict) and m.get("role") == "system" and isinstance(m.get("content"), str)
    ]
    if len(systems) < 2:
        return 0
    first = {**systems[0], "content": "\n\n".join(m["content"] for m in systems)}
    record["messages"] = [first, *(m for m in messages if not any(m is s for s in systems))]
    return len(systems) - 1


def merge_adjacent_turns(record: Record, kind: str) -> int:
    """FT213: join two plain messages of one role that follow each other."""
    messages = record.get("messages")
    if kind != "chat" or not isinstance(messages, list):
        return 0
    joined: list[Any] = []
    for message in messages:
        last: Any = joined[-1] if joined else None
        if _is_plain(message) and _is_plain(last) and message["role"] == last["role"] in ("user", "assistant"):
            last["content"] += "\n\n" + message["content"]
        else:
            joined.append(message)
    done = len(messages) - len(joined)
    record["messages"] = joined
    return done


def _is_plain(message: Any) -> bool:  # noqa: ANN401  # any JSON value
    return isinstance(message, dict) and message.keys() == {"role", "content"} and isinstance(message["content"], str)


def drop_equal_pair(record: Record, kind: str) -> int:
    """FT503: leave out a preference pair of equal texts."""
    if kind != "dpo":
        return 0
    outputs = (record.get(key) for key in DPO_KEYS[1:])
    texts = [o[0].get("content") for o in outputs if isinstance(o, list) and o and isinstance(o[0], dict)]
    both = len(texts) == 2 and all(isinstance(text, str) for text in texts)
    return DROP if both and str(texts[0]).strip() == str(texts[1]).strip() else 0


def redact_secrets(text: str) -> str:
    """FT901: put [REDACTED] in the place of every key and token."""
    for found in sorted(find_secrets(text), key=lambda item: -item.start):
        text = f"{text[: found.start]}[REDACTED]{text[found.end :]}"
    return text


def redact_personal(text: str) -> str:
    """FT902: put the kind in the place of personal data."""
    behind = len(text) + 1
    for found in sorted(find_personal_data(text, _KINDS), key=lambda item: -item.start):
        if found.end <= behind:
            text = f"{text[: found.start]}{_TAGS.get(found.kind, '[ID]')}{text[found.end :]}"
            behind = found.start
    return text


def fix_mojibake(text: str) -> str:
    """FT809: undo one wrong decoding, where that gives valid text."""
    if not MOJIBAKE.search(text):
        return text
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


def without_controls(text: str) -> str:
    """FT008: remove control characters except tab, line breaks, and ESC, which is FT906's."""
    return "".join(char for char in text if char >= " " or char in "\t\n\r\x1b")


def without_escapes(text: str) -> str:
    """FT906: remove terminal sequences."""
    import re

    return re.sub(r"[\x1b\x9b](?:\][^\x07\x1b]*(?:\x07|\x1b\\)|\[?[0-?]*[ -/]*[@-~])?", "", text)


UNSAFE: dict[str, Fixer] = {
    "FT008": _everywhere(without_controls),
    "FT106": _everywhere(lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")),
    "FT205": normalize_roles,
    "FT208": drop_empty,
    "FT210": drop_trailing_messages,
    "FT212": merge_system_messages,
    "FT213": merge_adjacent_turns,
    "FT503": drop_equal_pair,
    "FT809": _everywhere(fix_mojibake),
    "FT810": _everywhere(lambda text: INVISIBLE.sub("", text)),
    "FT901": _everywhere(redact_secrets),
    "FT902": _everywhere(redact_personal),
    "FT906": _everywhere(without_escapes),
}
