"""Small valid datasets that tests break or combine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TURNS = (
    ("Where is my parcel?", "It is on its way and arrives on Friday."),
    ("How do I reset my password?", "Open Settings, choose Security, then Reset."),
    ("Can I pay by invoice?", "Yes, companies can pay within 14 days."),
    ("The app crashes at start.", "Install version 4.2, which fixes this."),
    ("Please cancel my order.", "Done, the amount is on its way back."),
    ("Do you ship to Norway?", "Yes, within five working days."),
    ("My coupon is refused.", "It ended last Sunday, sorry about that."),
    ("How long is the warranty?", "Two years from the day of purchase."),
    ("I need a copy of the bill.", "I have sent it to you by mail."),
    ("Change my delivery address.", "Tell me the new street and number."),
    ("The screen stays black.", "Hold the power button for ten seconds."),
    ("Can I return opened goods?", "Yes, within 30 days with the receipt."),
)


def chat(index: int) -> dict[str, Any]:
    """A supervised record."""
    question, answer = TURNS[index % len(TURNS)]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def chats(number: int = 12) -> list[dict[str, Any]]:
    """Different supervised records."""
    rows = [chat(index) for index in range(number)]
    for index, row in enumerate(rows[len(TURNS) :]):
        row["messages"][0]["content"] += f" My number is {index}."
    return rows


def preference(index: int) -> dict[str, Any]:
    """A DPO record."""
    question, answer = TURNS[index % len(TURNS)]
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": answer}],
        "non_preferred_output": [{"role": "assistant", "content": f"Ask somebody else about number {index}, please."}],
    }


def graded(index: int) -> dict[str, Any]:
    """A reinforcement record."""
    question, answer = TURNS[index % len(TURNS)]
    return {"messages": [{"role": "user", "content": question}], "answer": answer.split()[-1]}


def write(path: Path, rows: list[dict[str, Any] | bytes]) -> Path:
    """Write records, and raw lines as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
