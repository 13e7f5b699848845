"""A fake endpoint that answers with a function, fails on demand, and records its requests."""

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
        replies: The answer to a model and messages.
        faults: Raised in order, one per request; ``None`` answers a request.
    """

    def __init__(self, replies: Replies, faults: Sequence[FtpipeError | BaseException | None] = ()) -> None:
        self.replies = replies
        self.faults = list(faults)
        self.requests: list[tuple[str, str]] = []
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
        """Answer, or raise the next fault."""
        with self._lock:
            self.requests.append((model, str(messages[-1]["content"])))
            self.settings.append((temperature, max_tokens, seed, tools))
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        reply = self.replies(model, messages)
        if isinstance(reply, Answer):
            return reply
        return Answer(text=reply, prompt_tokens=10, completion_tokens=2, latency_s=0.25)
