"""Put the answer of another host together while it is streamed to a caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

MAX_ANSWER_BYTES = 1024 * 1024
"""A longer answer is not compared: it would be in memory."""


class StreamedAnswer:
    """The first choice of a streamed answer, from its server-sent events."""

    def __init__(self) -> None:
        self._bytes = 0
        self._texts = {"content": "", "refusal": ""}
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: Any = None
        self._has_ended = False

    def add(self, event: bytes) -> None:
        """Take in one event; nothing in it is trusted to have the right type."""
        self._bytes += len(event)
        data = event.strip().removeprefix(b"data:").strip()
        if self._bytes > MAX_ANSWER_BYTES or not data.startswith(b"{"):
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and not choice.get("index"):
                self._has_ended = self._has_ended or bool(choice.get("finish_reason"))
                self._add_delta(choice.get("delta"))

    def completion(self) -> dict[str, Any] | None:
        """The answer in the form of one that is not streamed; ``None`` if it broke off or is too long."""
        if not self._has_ended or self._bytes > MAX_ANSWER_BYTES:
            return None
        calls = [{"type": "function", "function": call} for _, call in sorted(self._calls.items())]
        message = {**self._texts, **({"tool_calls": calls} if calls else {})}
        return {"choices": [{"message": message}], "usage": self._usage}

    def _add_delta(self, delta: object) -> None:
        if not isinstance(delta, Mapping):
            return
        for name in self._texts:
            if isinstance(piece := delta.get(name), str):
                self._texts[name] += piece
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if not (isinstance(call, Mapping) and isinstance(index := call.get("index"), int)):
                continue
            function = call.get("function")
            known = self._calls.setdefault(index, {"name": "", "arguments": ""})
            for name in known:
                if isinstance(function, Mapping) and isinstance(piece := function.get(name), str):
                    known[name] += piece
