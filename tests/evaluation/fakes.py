"""A small endpoint that answers from a table, fails as it is told, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.records.evaluation import Answer

Replies = Callable[[str, Sequence[Mapping[str, Any]]], Answer | str]


class ScriptedChat:
    """Answers by a function of model and messages.

    Args:
        replies: What to say.
        faults: Raised one after the other, before any answer is given; ``None`` lets one request through.
    """

    def __init__(self, replies: Replies, faults: Sequence[FtpipeError | BaseException | None] = ()) -> None:
        self.replies = replies
        self.faults = list(faults)
        self.asked: list[tuple[str, str]] = []
        self.settings: list[tuple[float, int, int | None, Any]] = []
        self._lock = threading.Lock()

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> Answer:
        """Answer, or fail as told."""
        with self._lock:
            self.asked.append((model, str(messages[-1]["content"])))
            self.settings.append((temperature, max_tokens, seed, tools))
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        reply = self.replies(model, messages)
        if isinstance(reply, Answer):
            return reply
        return Answer(text=reply, prompt_tokens=10, completion_tokens=2, latency_s=0.25)
