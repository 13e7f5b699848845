"""Evaluation items: dataset records as prompts with expected answers, and the task that they represent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import DatasetError
from ftpipe.grading.answer_agreement import normalize
from ftpipe.grading.json_values import parse_json
from ftpipe.records.evaluation import Item, Task, ToolCall
from ftpipe.tokenization import DEFAULT_ENCODING, open_counter

MAX_LABELS = 20
"""Number of different answers up to which a dataset can be a label task."""

MAX_LABEL_WORDS = 5
"""Words of the longest label."""

COUNTED_ANSWERS = 20
"""Expected answers whose tokens are counted for the limit of completions: the longest in bytes."""

SPARE_TOKENS = 16
"""Added to the longest expected answer, for tool calls and the end of the answer; the limit is a multiple of it."""

REFERENCE_KEYS = ("expected", "reference_answer", "reference", "label")
"""Keys that can hold the expected answer if a record's messages end with the user."""


def items_from_records(
    records: Iterable[tuple[int, Mapping[str, Any]]], *, cluster_by: str | None = None
) -> list[Item]:
    """The items of all records that have a prompt and an expected answer; a repeated record counts once.

    Args:
        records: 1-based line and record.
        cluster_by: Key, in the record or its ``metadata``, whose value names the item's cluster.

    Raises:
        DatasetError: No record has an expected answer.
    """
    items: dict[str, Item] = {}
    for line, record in records:
        item = item_from_record(line, record, cluster_by=cluster_by)
        if item is not None:
            items.setdefault(item.id, item)
    if not items:
        raise DatasetError(
            "no line has both a prompt and an expected answer",
            "each line needs messages that end with the assistant's correct answer",
        )
    return list(items.values())


def item_from_record(line: int, record: Mapping[str, Any], *, cluster_by: str | None = None) -> Item | None:
    """The prompt and expected answer of one record; ``None`` if it does not have both."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None
    last = messages[-1] if messages else {}
    prompt = messages[:-1] if last.get("role") == "assistant" else messages
    expected, calls = _expected_answer(record, last)
    if expected is None or not any(message.get("role") == "user" for message in prompt):
        return None
    tools = record.get("tools")
    metadata = record.get("metadata")
    sources = (record, metadata if isinstance(metadata, Mapping) else {})
    cluster = next((str(source[cluster_by]) for source in sources if cluster_by and cluster_by in source), "")
    return Item(
        id=hashlib.sha256(canonical_json(record)).hexdigest()[:16],
        line=line,
        messages=tuple({key: value for key, value in message.items() if key != "weight"} for message in prompt),
        tools=tuple(tool for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else (),
        expected=expected,
        expected_calls=calls,
        fields={key: value for key, value in record.items() if key not in ("messages", "tools")},
        cluster=cluster,
    )


def _expected_answer(record: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[str | None, tuple[ToolCall, ...]]:
    if last.get("role") == "assistant":
        return content_text(last.get("content")), tool_calls_of(last)
    for key in REFERENCE_KEYS:
        if key in record:
            value = record[key]
            return value if isinstance(value, str) else canonical_json(value).decode(), ()
    return None, ()


def content_text(content: object) -> str:
    """The text of a message's content, which is a string, a list of parts, or missing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def tool_calls_of(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The tool calls of an assistant message, including the deprecated ``function_call``."""
    listed = message.get("tool_calls")
    functions = [call.get("function") for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
    functions += [message["function_call"]] if message.get("function_call") else []
    return tuple(
        ToolCall(name=str(function.get("name", "")), arguments=_argument_text(function.get("arguments")))
        for function in functions
        if isinstance(function, dict)
    )


def _argument_text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else canonical_json(arguments or {}).decode()


def estimate_max_tokens(items: Sequence[Item]) -> int:
    """A limit for completions that no expected answer reaches, with any tokenizer.

    Small vocabularies need up to twice as many tokens as o200k_base, and one token for each byte of letters that they
    do not have.
    """
    answers = [item.expected + "".join(call.name + call.arguments for call in item.expected_calls) for item in items]
    sizes = {answer: len(answer.encode("utf-8", "replace")) for answer in answers}
    longest = sorted(sizes, key=lambda answer: sizes[answer])[-COUNTED_ANSWERS:]
    counter = open_counter(DEFAULT_ENCODING, size=sum(sizes[answer] for answer in longest))
    tokens = max(counter.count(longest), default=0)
    foreign_bytes = max(
        (len(re.sub("[\x00-\x7f]", "", text).encode("utf-8", "replace")) for text in longest), default=0
    )
    needed = max(2 * tokens, foreign_bytes) + SPARE_TOKENS
    return -(-needed // SPARE_TOKENS) * SPARE_TOKENS


def detect_task(items: Sequence[Item]) -> tuple[Task, str]:
    """The task that the expected answers suggest, and the reason as text."""
    if any(item.expected_calls for item in items):
        return Task.TOOLS, f"{sum(bool(item.expected_calls) for item in items)} expected answers call tools"
    documents = [parse_json(item.expected) for item in items]
    if all(isinstance(value, dict | list) for value in documents):
        return Task.JSON, "every expected answer is a JSON document"
    labels = {normalize(item.expected) for item in items}
    is_short = all(len(label.split()) <= MAX_LABEL_WORDS for label in labels)
    if is_short and len(labels) <= min(MAX_LABELS, max(2, len(items) // 2)):
        return Task.LABEL, f"the expected answers are {len(labels)} short labels"
    return Task.TEXT, f"the expected answers are {len(labels)} different texts"
