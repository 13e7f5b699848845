"""Factories for items and answers, and price rows."""

from __future__ import annotations

import json

from ftpipe.records.evaluation import Answer, Item, TokenPrice, ToolCall


def item(expected: str = "", *, number: int = 1, calls: tuple[ToolCall, ...] = (), cluster: str = "") -> Item:
    """One prompt with its expected answer."""
    question = {"role": "user", "content": f"question {number}"}
    return Item(
        id=f"{number:016x}", line=number, messages=(question,), expected=expected, expected_calls=calls, cluster=cluster
    )


def answer(text: str = "", *calls: ToolCall) -> Answer:
    return Answer(text=text, tool_calls=calls, prompt_tokens=10, completion_tokens=2, latency_s=0.1)


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments))


MINI = TokenPrice(
    model="gpt-4.1-mini", input=0.40, cached=0.10, output=1.60, as_of="2026-07-31", source="price note, base models"
)
LARGE = TokenPrice(
    model="gpt-4.1", input=2.00, cached=0.50, output=8.00, as_of="2026-07-31", source="price note, base models"
)
TUNED_MINI = TokenPrice(
    model="ft:gpt-4.1-mini",
    input=0.80,
    cached=0.20,
    output=3.20,
    training=5.00,
    as_of="2025-11-01",
    source="price page of 2025",
)
TUNED_4O_MINI = TokenPrice(
    model="ft:gpt-4o-mini",
    input=0.30,
    cached=0.15,
    output=1.20,
    training=3.00,
    as_of="2025-11-01",
    source="price page of 2025",
)
