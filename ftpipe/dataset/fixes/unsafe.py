"""Unsafe fixes of one record, which remove or change something. They return ``DROP`` to remove the record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ftpipe.dataset.conversion.verdicts import is_left_out
from ftpipe.dataset.fixes.safe import Fixer, Record, messages_of
from ftpipe.dataset.formats import DPO_KEYS, chat_keys, message_lists
from ftpipe.dataset.rules.messages.fields import ROLE_SYNONYMS, message_keys
from ftpipe.dataset.rules.messages.training import has_call
from ftpipe.dataset.rules.quality.text import INVISIBLE, MOJIBAKE
from ftpipe.dataset.sensitive_data import find_personal_data, find_secrets

DROP = -1
_PERSONAL_KINDS = ("email", "phone", "card", "iban", "ssn")
_REPLACEMENTS = {
    "an e-mail address": "[EMAIL]",
    "a phone number": "[PHONE]",
    "a card number": "[CARD]",
    "a bank account (IBAN)": "[IBAN]",
}


def change_texts(value: Any, change: Callable[[str], str]) -> tuple[Any, int]:  # noqa: ANN401  # any JSON value
    """A JSON value with ``change`` applied to every string except keys, and the number of changed strings."""
    if isinstance(value, str):
        new = change(value)
        return new, int(new != value)
    if isinstance(value, list):
        results = [change_texts(item, change) for item in value]
        return [item for item, _ in results], sum(count for _, count in results)
    if isinstance(value, dict):
        members = {key: change_texts(item, change) for key, item in value.items()}
        return {key: item for key, (item, _) in members.items()}, sum(count for _, count in members.values())
    return value, 0


def _for_all_texts(change: Callable[[str], str]) -> Fixer:
    def fix(record: Record, kind: str) -> int:
        fixed = 0
        for message in messages_of(record, kind):
            new, changed = change_texts(message, change)
            message.update(new)
            fixed += changed
        return fixed

    return fix


def drop_extra_keys(record: Record, kind: str, target: str = "openai") -> int:
    """FT110: remove top-level keys that the format does not define, or the record if one says not to learn it."""
    known = frozenset(DPO_KEYS) if kind == "dpo" else chat_keys(target)
    extra = (
        [key for key in record if key not in known]
        if kind in ("chat", "dpo") and not record.keys().isdisjoint(known)
        else []
    )
    if kind == "chat" and any(is_left_out(key, record[key]) for key in extra):
        return DROP
    for key in extra:
        del record[key]
    return len(extra)


def drop_message_keys(record: Record, kind: str, target: str = "openai") -> int:
    """FT214: remove message keys that the API does not know; one that says not to learn an answer becomes a weight."""
    fixed = 0
    for message in messages_of(record, kind):
        known = message_keys(target, message)
        for key in [key for key in message if key not in known]:
            if message.get("role") == "assistant" and is_left_out(key, message[key]):
                message["weight"] = 0
            del message[key]
            fixed += 1
    return fixed


def normalize_roles(record: Record, kind: str) -> int:
    """FT205: replace a synonym by the known role."""
    fixed = 0
    for message in messages_of(record, kind):
        role = str(message.get("role")).strip().lower()
        known = ROLE_SYNONYMS.get(role, role)
        if message.get("role") != known and known in ("system", "user", "assistant", "tool"):
            message["role"] = known
            fixed += 1
    return fixed


def drop_empty_answer(record: Record, kind: str) -> int:
    """FT208: remove a record with an empty answer."""
    for message in messages_of(record, kind):
        content = message.get("content")
        is_empty = message.get("role") == "assistant" and isinstance(content, str) and not content.strip()
        if is_empty and not has_call(message):
            return DROP
    return 0


def drop_trailing_messages(record: Record, kind: str) -> int:
    """FT210: remove the messages after the last answer."""
    messages = record.get("messages")
    if kind != "chat" or not isinstance(messages, list):
        return 0
    answers = [i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "assistant"]
    if not answers or answers[-1] == len(messages) - 1:
        return 0
    fixed = len(messages) - 1 - answers[-1]
    del messages[answers[-1] + 1 :]
    return fixed


def merge_system_messages(record: Record, kind: str) -> int:
    """FT212: merge system messages into one at the beginning."""
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


def move_system_first(record: Record, kind: str) -> int:
    """FT211: move system and developer messages to the beginning, in their order."""
    fixed = 0
    for _, messages in message_lists(record, kind):
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            continue
        ordered = sorted(messages, key=lambda message: message.get("role") not in ("system", "developer"))
        fixed += sum(message.get("role") in ("system", "developer") and message is not messages[index]
                     for index, message in enumerate(ordered))  # fmt: skip
        messages[:] = ordered
    return fixed


def merge_adjacent_turns(record: Record, kind: str) -> int:
    """FT213: merge consecutive plain messages of the same role."""
    messages = record.get("messages")
    if kind != "chat" or not isinstance(messages, list):
        return 0
    merged: list[Any] = []
    for message in messages:
        last: Any = merged[-1] if merged else None
        if _is_plain(message) and _is_plain(last) and message["role"] == last["role"] in ("user", "assistant"):
            last["content"] += "\n\n" + message["content"]
        else:
            merged.append(message)
    fixed = len(messages) - len(merged)
    record["messages"] = merged
    return fixed


def _is_plain(message: Any) -> bool:  # noqa: ANN401  # any JSON value
    return isinstance(message, dict) and message.keys() == {"role", "content"} and isinstance(message["content"], str)


def drop_equal_pair(record: Record, kind: str) -> int:
    """FT503: remove a preference pair with equal texts."""
    if kind != "dpo":
        return 0
    outputs = (record.get(key) for key in DPO_KEYS[1:])
    texts = [o[0].get("content") for o in outputs if isinstance(o, list) and o and isinstance(o[0], dict)]
    both = len(texts) == 2 and all(isinstance(text, str) for text in texts)
    return DROP if both and str(texts[0]).strip() == str(texts[1]).strip() else 0


def convert_legacy_functions(record: Record, kind: str) -> int:
    """FT309: write functions as tools, function_call as tool_calls, and the role function as tool."""
    source = record.get("input") if kind == "dpo" else record
    fixed = 0
    if isinstance(source, dict) and isinstance(source.get("functions"), list):
        tools = source.get("tools")
        new = [{"type": "function", "function": function} for function in source.pop("functions")]
        source["tools"] = [*(tools if isinstance(tools, list) else ()), *new]
        fixed += 1
    for _, messages in message_lists(record, kind):
        fixed += _convert_calls(messages) if isinstance(messages, list) else 0
    return fixed


def _convert_calls(messages: list[Any]) -> int:
    fixed = 0
    unanswered: dict[str, str] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        call = message.get("function_call")
        if isinstance(call, dict) and not message.get("tool_calls"):
            unanswered[str(call.get("name"))] = call_id = f"call_{index}"
            message["tool_calls"] = [{"id": call_id, "type": "function", "function": message.pop("function_call")}]
            fixed += 1
        elif "function_call" in message and call is None:
            del message["function_call"]
            fixed += 1
        if message.get("role") == "function" and (call_id := unanswered.pop(str(message.get("name")), "")):
            del message["name"]
            content = message.get("content")
            message.update(role="tool", tool_call_id=call_id, content="" if content is None else content)
            fixed += 1
    return fixed


def redact_secrets(text: str) -> str:
    """FT901: replace every secret with [REDACTED]."""
    for match in sorted(find_secrets(text), key=lambda item: -item.start):
        text = f"{text[: match.start]}[REDACTED]{text[match.end :]}"
    return text


def redact_personal(text: str) -> str:
    """FT902: replace personal data with its kind."""
    next_start = len(text) + 1
    for match in sorted(find_personal_data(text, _PERSONAL_KINDS), key=lambda item: -item.start):
        if match.end <= next_start:
            text = f"{text[: match.start]}{_REPLACEMENTS.get(match.kind, '[ID]')}{text[match.end :]}"
            next_start = match.start
    return text


def fix_mojibake(text: str) -> str:
    """FT809: undo one wrong decoding if the result is valid text."""
    if not MOJIBAKE.search(text):
        return text
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


def remove_control_characters(text: str) -> str:
    """FT008: remove control characters except tab, line breaks, and ESC, which FT906 removes."""
    return "".join(char for char in text if char >= " " or char in "\t\n\r\x1b")


def remove_terminal_sequences(text: str) -> str:
    """FT906: remove terminal sequences."""
    import re

    return re.sub(r"[\x1b\x9b](?:\][^\x07\x1b]*(?:\x07|\x1b\\)|\[?[0-?]*[ -/]*[@-~])?", "", text)


def strip_answers(record: Record, kind: str) -> int:
    """FT812: strip whitespace around answers."""
    fixed = 0
    for message in messages_of(record, kind):
        content = message.get("content")
        if message.get("role") == "assistant" and isinstance(content, str) and content.strip() not in ("", content):
            message["content"] = content.strip()
            fixed += 1
    return fixed


UNSAFE: dict[str, Fixer] = {
    "FT008": _for_all_texts(remove_control_characters),
    "FT106": _for_all_texts(lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")),
    "FT110": drop_extra_keys,
    "FT205": normalize_roles,
    "FT208": drop_empty_answer,
    "FT210": drop_trailing_messages,
    "FT211": move_system_first,
    "FT212": merge_system_messages,
    "FT213": merge_adjacent_turns,
    "FT214": drop_message_keys,
    "FT309": convert_legacy_functions,
    "FT503": drop_equal_pair,
    "FT809": _for_all_texts(fix_mojibake),
    "FT810": _for_all_texts(lambda text: INVISIBLE.sub("", text)),
    "FT812": strip_answers,
    "FT901": _for_all_texts(redact_secrets),
    "FT902": _for_all_texts(redact_personal),
    "FT906": _for_all_texts(remove_terminal_sequences),
}
LOSSLESS = frozenset({"FT205", "FT211", "FT309", "FT901", "FT902"})
"""Fixes of which nothing goes to the sidecar: renamings, another order, and redactions, whose purpose is that the text
is gone."""


def unsafe_fixers(target: str) -> dict[str, Fixer]:
    """The unsafe fixes for a target, which keep the keys that it knows."""
    return {
        **UNSAFE,
        "FT110": partial(drop_extra_keys, target=target),
        "FT214": partial(drop_message_keys, target=target),
    }
