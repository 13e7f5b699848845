"""Detects the format of a record and of a file: chat, dpo, rft, legacy or unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

Layout = Literal["lines", "array", "pretty", "utf16", "binary"]

CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
"""Top-level keys of a supervised line. Source: OpenAI API description of 2025-05-20, FineTuneChatRequestInput."""
RFT_RESERVED = frozenset({"messages", "tools"})
DPO_KEYS = ("input", "preferred_output", "non_preferred_output")
DPO_ALIASES = {"preferred_completion": "preferred_output", "non_preferred_completion": "non_preferred_output"}
DPO_WORDS = frozenset({*DPO_KEYS[1:], *DPO_ALIASES})
LEGACY_SHAPES = (
    ("prompt/completion", frozenset({"prompt", "completion"})),
    ("Alpaca", frozenset({"instruction", "output"})),
    ("Alpaca", frozenset({"instruction", "response"})),
    ("ShareGPT", frozenset({"conversations"})),
    ("ShareGPT", frozenset({"conversation"})),
)

METHOD_OF = {
    "chat": "supervised",
    "dpo": "dpo",
    "rft": "reinforcement",
    "legacy": "supervised",
    "unknown": "supervised",
}
FORMAT_OF = {"supervised": "chat", "dpo": "dpo", "reinforcement": "rft"}


def legacy_shape(record: dict[str, Any]) -> str:
    """``prompt/completion``, ``Alpaca`` or ``ShareGPT``; empty for any other record."""
    if "messages" in record:
        return ""
    keys = record.keys()
    return next((name for name, shape in LEGACY_SHAPES if shape <= keys), "")


def shape_of(record: dict[str, Any]) -> str:
    """The broad shape of one record: ``messages``, ``dpo``, ``legacy`` or ``unknown``."""
    if DPO_WORDS & record.keys():
        return "dpo"
    if "messages" in record:
        return "messages"
    if "input" in record and isinstance(record["input"], dict):
        return "dpo"
    return "legacy" if legacy_shape(record) else "unknown"


def fits_only_reinforcement(record: dict[str, Any]) -> bool:
    """True for a record that only fits reinforcement: no answer to imitate, but fields to grade against."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return False
    extra = record.keys() - CHAT_KEYS
    developer = any(isinstance(m, dict) and m.get("role") == "developer" for m in messages)
    return messages[-1].get("role") != "assistant" and bool(extra or developer)


def format_of(records: Iterable[dict[str, Any]], method: str | None = None) -> str:
    """The format of most records; a requested method decides between chat and rft, which have the same shape."""
    shapes: Counter[str] = Counter()
    reinforced = 0
    for record in records:
        shapes[shape_of(record)] += 1
        reinforced += fits_only_reinforcement(record)
    if not shapes:
        return "unknown"
    shape = shapes.most_common(1)[0][0]
    if shape == "unknown" and len(shapes) > 1:
        shape = shapes.most_common(2)[1][0]
    if shape != "messages":
        return shape
    if method == "reinforcement":
        return "rft"
    return "rft" if method is None and reinforced * 2 > shapes["messages"] else "chat"


def message_lists(record: dict[str, Any], kind: str) -> list[tuple[str, Any]]:
    """The message lists of a record, each with its path; in a DPO row the prompt and the two outputs."""
    if kind != "dpo":
        return [("messages", record["messages"])] if "messages" in record else []
    lists: list[tuple[str, Any]] = []
    source = record.get("input")
    if isinstance(source, dict) and "messages" in source:
        lists.append(("input.messages", source["messages"]))
    for key in ("preferred_output", "non_preferred_output", "preferred_completion", "non_preferred_completion"):
        if key in record:
            lists.append((key, record[key]))
    return lists
