"""What people think of answers: an append-only journal, and two files of rows that ``ftpipe prepare`` takes.

``answers.jsonl`` has the answers that were good, and the corrections of others. ``preferences.jsonl`` has pairs: a
correction before the answer that it replaces, and a good answer before a bad one to the same question.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from ftpipe.atomic_files import ends_within_line, write_bytes
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.records.base import Record

FOLDER = "answers"
"""In the project's state folder."""
MAX_CORRECTION_CHARACTERS = 400_000
Opinion = Literal["good", "bad", "corrected", "none"]


class Feedback(Record):
    """One opinion; a later one about the same answer replaces it."""

    id: str
    """The answer: conversation, turn and column."""
    question: str
    """Conversation and turn: answers to the same question have the same one."""
    created_at: int
    """UTC Unix seconds."""
    model: str
    provider: str
    messages: tuple[dict[str, Any], ...]
    """What the model was asked."""
    tools: tuple[dict[str, Any], ...] = ()
    answer: dict[str, Any]
    opinion: Opinion
    correction: str = ""


class FeedbackFiles:
    """The journal and the files that are made from it.

    Args:
        state_dir: The project's state folder.
        clock: UTC Unix seconds.
    """

    def __init__(self, state_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = state_dir / FOLDER
        self._journal = self._folder / "feedback.jsonl"
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def answers(self) -> Path:
        """Rows for supervised training."""
        return self._folder / "answers.jsonl"

    @property
    def preferences(self) -> Path:
        """Rows for DPO."""
        return self._folder / "preferences.jsonl"

    def save(self, feedback: Feedback) -> dict[str, int]:
        """Add an opinion and write both files again; returns the number of rows of each.

        Raises:
            UsageError: A correction is empty or too long.
            LocalStateError: A file cannot be written.
        """
        if feedback.opinion == "corrected" and not 0 < len(feedback.correction) <= MAX_CORRECTION_CHARACTERS:
            raise UsageError("the correction is empty or too long", "write the answer that the model should give")
        entry = feedback.model_copy(update={"created_at": int(self._clock())})
        try:
            with self._lock:
                self._folder.parent.mkdir(mode=0o700, exist_ok=True)
                self._folder.mkdir(exist_ok=True)
                with self._journal.open("a+b") as journal:
                    start = b"\n" if ends_within_line(journal) else b""
                    journal.write(start + entry.model_dump_json().encode() + b"\n")
                    journal.flush()
                    os.fsync(journal.fileno())
                current = self.opinions().values()
                return {
                    "answers": _write(self.answers, _chat_rows(current)),
                    "preferences": _write(self.preferences, _pairs(current)),
                }
        except OSError as exc:
            raise LocalStateError(
                f"{self._folder} cannot be written: {exc.strerror}", "check its permissions and the disk"
            ) from exc

    def opinions(self) -> dict[str, Feedback]:
        """The last opinion about each answer by its id, in the order of the first ones."""
        current: dict[str, Feedback] = {}
        try:
            with self._journal.open("rb") as journal:
                for line in journal:
                    try:
                        entry = Feedback.model_validate_json(line)
                    except ValueError:  # cut by a crash
                        continue
                    current[entry.id] = entry
        except FileNotFoundError:
            pass
        return current


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    lines = list(dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in rows))
    if lines or path.exists():
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
    return len(lines)


def _chat_rows(feedback: Iterable[Feedback]) -> Iterator[dict[str, Any]]:
    """Only the last answer of a conversation is trained."""
    for one in feedback:
        if one.opinion == "good":
            answer = one.answer
        elif one.opinion == "corrected":
            answer = {"role": "assistant", "content": one.correction}
        else:
            continue
        earlier = [{**m, "weight": 0} if m.get("role") == "assistant" else m for m in one.messages]
        yield {"messages": [*earlier, answer], **({"tools": list(one.tools)} if one.tools else {})}


def _pairs(feedback: Iterable[Feedback]) -> Iterator[dict[str, Any]]:
    by_question: dict[str, list[Feedback]] = {}
    for one in feedback:
        by_question.setdefault(one.question, []).append(one)
        if one.opinion == "corrected":
            yield _pair(one, {"role": "assistant", "content": one.correction}, one.answer)
    for answers in by_question.values():
        for good in answers:
            for bad in answers:
                is_pair = good.opinion == "good" and bad.opinion == "bad" and good.messages == bad.messages
                if is_pair and good.answer != bad.answer:
                    yield _pair(good, good.answer, bad.answer)


def _pair(one: Feedback, preferred: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    source = {"messages": list(one.messages), **({"tools": list(one.tools)} if one.tools else {})}
    return {"input": source, "preferred_output": [preferred], "non_preferred_output": [other]}
