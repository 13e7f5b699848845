"""Put the answer of another host together while it is streamed to a caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MAX_ANSWER_BYTES = 1024 * 1024
"""A longer answer is not compared: it would be in memory."""
MAX_CHOICES = 128
"""Source: OpenAI API description, CreateChatCompletionRequest, ``n``, 2026-08-21."""


@dataclass(slots=True)
class _Choice:
    """One choice, as far as it was streamed."""

    texts: dict[str, str] = field(default_factory=lambda: {"content": "", "refusal": ""})
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    legacy_call: dict[str, str] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: Any = None

    def add(self, choice: Mapping[str, Any]) -> None:
        """Take in a piece."""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, Mapping) and isinstance(tokens := logprobs.get("content"), list):
            self.logprobs += tokens
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            return
        for name in self.texts:
            if isinstance(piece := delta.get(name), str):
                self.texts[name] += piece
        if isinstance(function := delta.get("function_call"), Mapping):
            _append(self.legacy_call, function, ("name", "arguments"))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, Mapping) and isinstance(index := call.get("index"), int):
                self._add_call(index, call)

    def message(self) -> dict[str, Any]:
        """The message."""
        calls = [_call(call) for _, call in sorted(self.calls.items())]
        has_calls = bool(calls or self.legacy_call)
        content = self.texts["content"] or (None if has_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": self.texts["refusal"] or None}
        if self.legacy_call:
            message["function_call"] = {"name": "", "arguments": "", **self.legacy_call}
        return {**message, "tool_calls": calls} if calls else message

    def _add_call(self, index: int, call: Mapping[str, Any]) -> None:
        known = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        if isinstance(call_id := call.get("id"), str):
            known["id"] = known["id"] or call_id
        if isinstance(function := call.get("function"), Mapping):
            _append(known, function, ("name", "arguments"))
        if isinstance(custom := call.get("custom"), Mapping):
            known.setdefault("input", "")
            _append(known, custom, ("name", "input"))


def _append(known: dict[str, str], called: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if isinstance(piece := called.get(name), str):
            known[name] = known.get(name, "") + piece


def _call(call: Mapping[str, str]) -> dict[str, Any]:
    """A call of a tool; that of a custom tool has an input."""
    kind, text = ("custom", "input") if "input" in call else ("function", "arguments")
    called = {"name": call["name"], text: call[text]}
    return {**({"id": call["id"]} if call["id"] else {}), "type": kind, kind: called}


class StreamedAnswer:
    """A streamed answer, from its server-sent events.

    Args:
        max_bytes: Size of the events from which on the answer is given up.
    """

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None

    def add(self, event: bytes) -> None:
        """Take in one event; nothing in it is trusted to have the right type."""
        self._bytes += len(event)
        data = event.strip().removeprefix(b"data:").strip()
        if self._bytes > self._max_bytes or not data.startswith(b"{"):
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        self._usage = chunk.get("usage") or self._usage
        self._head = self._head or {name: chunk[name] for name in ("id", "created", "model") if name in chunk}
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            index = choice.get("index", 0) if isinstance(choice, Mapping) else None
            if isinstance(index, int) and 0 <= index < MAX_CHOICES:
                self._choices.setdefault(index, _Choice()).add(choice)

    def completion(self) -> dict[str, Any] | None:
        """The answer as one that is not streamed; ``None`` if its first choice broke off, or it is too long."""
        choices = [(index, choice) for index, choice in sorted(self._choices.items()) if choice.finish_reason]
        if self._bytes > self._max_bytes or not choices or choices[0][0] != 0:
            return None
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": choice.message(),
                    "logprobs": {"content": choice.logprobs, "refusal": None} if choice.logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in choices
            ],
            "usage": self._usage,
        }
