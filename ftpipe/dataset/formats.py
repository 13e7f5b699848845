"""Detects the format of a record and of a file: chat, dpo, rft, legacy or unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

Layout = Literal[
    "lines", "array", "pretty", "table", "excel", "parquet", "compressed", "utf16", "binary", "lfs", "html"
]
NOT_DATA: tuple[Layout, ...] = ("lfs", "html")
"""Files that were downloaded in place of the data."""
OTHER_FORMATS: tuple[Layout, ...] = ("table", "excel", "parquet", "compressed")
"""Files that hold no JSON as they are."""
LAYOUT_FAULTS: dict[Layout, str] = {
    "array": "The file is one JSON array.",
    "pretty": "The file is pretty-printed JSON.",
    "table": "The file is a table (CSV).",
    "excel": "The file is an Excel workbook.",
    "parquet": "The file is a Parquet table.",
    "compressed": "The file is compressed.",
    "utf16": "The file is UTF-16 or UTF-32.",
    "binary": "The file is binary: it contains NUL bytes and is not UTF-8.",
    "lfs": "The file is a Git LFS pointer, not the data: `git lfs pull` fetches it.",
    "html": "The file is an HTML page, such as the login page of a site, not the data.",
}
"""Why a file is not JSON Lines in UTF-8."""

CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
"""Top-level keys of a supervised line. Source: OpenAI API description of 2025-05-20, FineTuneChatRequestInput."""
HOST_KEYS: dict[str, frozenset[str]] = {
    "together": frozenset({"messages", "tools", "weight"}),
    "fireworks": frozenset({"messages", "tools"}),
}
"""Target → top-level keys of a supervised line, where they are others than OpenAI's.

Other keys are removed before the upload (``ftpipe.dataset.projection``). ``weight`` is the weight of the whole example.
Source: Together's data preparation page, 2026-08, which refuses unknown keys; Fireworks' supervised guide, 2026-08.
"""
RFT_RESERVED = frozenset({"messages", "tools"})
DPO_KEYS = ("input", "preferred_output", "non_preferred_output")
DPO_ALIASES = {"preferred_completion": "preferred_output", "non_preferred_completion": "non_preferred_output"}
DPO_WORDS = frozenset({*DPO_KEYS[1:], *DPO_ALIASES})
LEGACY_SHAPES = tuple(
    (name, frozenset(keys.split()))
    for name, keys in (
        ("chosen/rejected", "chosen rejected"),
        ("chosen/rejected", "response rejected_response"),
        ("Vertex AI", "contents"),
        ("KTO", "prompt completion label"),
        ("KTO", "kto_tag"),
        ("prompt/completion", "prompt completion"),
        ("Dolly", "instruction context response"),
        ("Alpaca", "instruction output"),
        ("Alpaca", "instruction response"),
        ("ShareGPT", "conversations"),
        ("ShareGPT", "conversation"),
        ("evals", "input ideal"),
        ("LangSmith", "inputs outputs"),
        ("Batch API", "custom_id body"),
        ("Batch API", "custom_id response"),
        ("Label Studio", "data annotations"),
        ("Argilla", "fields responses"),
        ("Cohere", "message chat_history"),
        ("OASST", "message_tree_id"),
        ("xLAM", "query answers"),
        ("SQuAD", "question answers"),
        ("question/answer", "question answer"),
        ("question/answer", "question response"),
        ("question/answer", "prompt response"),
        ("question/answer", "query response"),
        ("input/output", "input output"),
        ("text/label", "text label"),
        ("text", "text"),
    )
)
"""Formats that ``ftpipe convert`` reads, with the keys that tell them, in lower case; the first that fits counts."""
_ANTHROPIC_PARTS = frozenset({"tool_use", "tool_result"})

METHOD_OF = {
    "chat": "supervised",
    "dpo": "dpo",
    "rft": "reinforcement",
    "legacy": "supervised",
    "unknown": "supervised",
}
FORMAT_OF = {"supervised": "chat", "dpo": "dpo", "reinforcement": "rft"}


def legacy_shape(record: dict[str, Any]) -> str:
    """Name of the format that has to be converted first, such as ``Alpaca``; empty for any other record."""
    if "messages" in record:
        return _message_shape(record, record["messages"])
    keys = {key.lower() for key in record}
    return next((name for name, shape in LEGACY_SHAPES if shape <= keys), "")


def _message_shape(record: dict[str, Any], messages: object) -> str:
    """The same for a record with ``messages``; empty for those of the OpenAI API."""
    if isinstance(messages, str):
        return "messages as text" if messages.lstrip().startswith("[") else ""
    if "schemaVersion" in record:
        return "Bedrock"
    if isinstance(messages, dict) and isinstance(messages.get("role", messages.get("from")), list):
        return "messages by column"
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        return ""
    if {"rejected", "rejected_response", "rejected_message", "rejected_messages"} & record.keys():
        return "chosen/rejected"
    if any(message.get("role") in ("Chatbot", "CHATBOT") for message in messages):
        return "Cohere"
    if all("role" not in message and ("data" in message or "kwargs" in message) for message in messages):
        return "LangChain"
    if all("from" in message and "role" not in message for message in messages):
        return "ShareGPT"
    if messages[-1].get("role") != "assistant":
        return ""
    if isinstance(record.get("label", record.get("kto_tag")), bool):
        return "KTO"
    parts = [
        part for message in messages[:8] if isinstance(message.get("content"), list) for part in message["content"]
    ]
    if any(isinstance(part, dict) and "type" not in part for part in parts):
        return "Bedrock"
    has_system = messages[0].get("role") == "system"
    is_anthropic = any(isinstance(part, dict) and str(part.get("type")) in _ANTHROPIC_PARTS for part in parts)
    return "Anthropic" if is_anthropic or (record.get("system") and not has_system) else ""


def shape_of(record: dict[str, Any]) -> str:
    """The broad shape of one record: ``messages``, ``dpo``, ``legacy`` or ``unknown``."""
    if DPO_WORDS & record.keys():
        return "dpo"
    if legacy_shape(record):
        return "legacy"
    if "messages" in record:
        return "messages"
    return "dpo" if isinstance(record.get("input"), dict) else "unknown"


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


def chat_keys(target: str) -> frozenset[str]:
    """Top-level keys that a target knows in a supervised line, and ``functions``, which FT309 reports and converts."""
    return HOST_KEYS.get(target, CHAT_KEYS) | {"functions"}


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
