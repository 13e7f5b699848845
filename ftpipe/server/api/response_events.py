"""One response while it is generated: its output items, its body, and the events of its stream in their order.

Source: ``openai.types.responses`` of openai-python 3.57.0 (``ResponseStreamEvent``), read 2026-11-29.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ftpipe.server.api.answer_events import AnswerEnd
from ftpipe.server.api.response_items import (
    CUSTOM_CALL,
    FUNCTION_CALL,
    Item,
    answer_message,
    custom_tool_call,
    function_call,
    output_text,
)
from ftpipe.server.clock import now

Event: TypeAlias = dict[str, Any]
Logprob: TypeAlias = Mapping[str, Any]
EndReason: TypeAlias = Literal["stop", "length", "cancelled", "failed"]

_FINAL_STATUS: Mapping[EndReason, str] = {
    "stop": "completed",
    "length": "incomplete",
    "cancelled": "cancelled",
    "failed": "failed",
}
_CALL_TEXTS = {
    FUNCTION_CALL: ("arguments", "function_call_arguments"),
    CUSTOM_CALL: ("input", "custom_tool_call_input"),
}
"""Type of a call → the field that has its text, and the name of the events about it."""
_FINAL_EVENT: Mapping[EndReason, str] = {
    "stop": "response.completed",
    "length": "response.incomplete",
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}


@dataclass(slots=True)
class _OpenItem:
    """The output item that is being generated."""

    item: Item
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    deltas: list[list[int]] = field(default_factory=list)
    """Of each delta event the number of characters and of tokens with log-probabilities."""

    @property
    def is_message(self) -> bool:
        return bool(self.item["type"] == "message")

    def finished(self, status: str) -> Item:
        """The item with all of its text."""
        text = "".join(self.pieces)
        if self.is_message:
            return self.item | {"status": status, "content": [output_text(text, self.logprobs)]}
        if self.item["type"] == CUSTOM_CALL:
            return self.item | {"input": text}
        return self.item | {"status": status, "arguments": text}


class ResponseBuilder:
    """Turns the pieces of an answer into a response; every method returns the events that the stream gets.

    Args:
        head: The fields of the response that are known before its answer.
        new_id: Makes the id of an output item from its prefix.
    """

    def __init__(self, head: Mapping[str, Any], new_id: Callable[[str], str]) -> None:
        self._head = head
        self._new_id = new_id
        self._sequence = 0
        self._output: list[Item] = []
        self._open: _OpenItem | None = None
        self._end: dict[str, Any] = {"status": "in_progress"}
        self.deltas: dict[str, list[list[int]]] = {}
        """Of each output item the sizes of its delta events, from which ``replay_events`` makes the same ones."""

    @property
    def body(self) -> dict[str, Any]:
        """The response as it is now; can be read from another thread."""
        item = self._open
        output = [*self._output, *([] if item is None else [item.finished("incomplete")])]
        return {**self._head, "output": output, **self._end}

    @property
    def _current(self) -> _OpenItem:
        if self._open is None:
            message = "no output item has been begun"
            raise RuntimeError(message)
        return self._open

    def begin(self) -> list[Event]:
        """The events before the first piece."""
        return [self._event(f"response.{name}", response=self.body) for name in ("created", "in_progress")]

    def add_text(self, text: str, logprobs: Sequence[Logprob] = ()) -> list[Event]:
        """A piece of a message."""
        events = self._open_message()
        if text or logprobs:
            self._append(text, logprobs)
            shown = [_without_bytes(token) for token in logprobs]
            events.append(self._part_event("response.output_text.delta", delta=text, logprobs=shown))
        return events

    def begin_call(self, call_id: str, name: str, *, is_custom: bool) -> list[Event]:
        """The start of a call of a function, or of a custom tool."""
        events = self.close_item("completed")
        if is_custom:
            item = custom_tool_call(self._new_id("ctc_"), call_id, name, "")
        else:
            item = function_call(self._new_id("fc_"), call_id, name, "", "in_progress")
        return [*events, *self._start(item)]

    def add_call_text(self, text: str) -> list[Event]:
        """A piece of the arguments, or the input, of the call that was begun last."""
        self._append(text)
        _, event = _CALL_TEXTS[self._current.item["type"]]
        return [self._item_event(f"response.{event}.delta", delta=text)]

    def finish(
        self, reason: EndReason, end: AnswerEnd | None = None, error: Mapping[str, Any] | None = None
    ) -> list[Event]:
        """The end of the answer; afterwards ``body`` is complete.

        Args:
            reason: Why it ends.
            end: The last event of the answer, with its tokens.
            error: Code and message, if it failed.
        """
        has_stopped = reason == "stop"
        events = self._open_message() if has_stopped and not self._output and self._open is None else []
        events += self.close_item("completed" if has_stopped else "incomplete")
        self._end = {
            "status": _FINAL_STATUS[reason],
            "completed_at": now() if has_stopped else None,
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "error": error,
            "usage": None if end is None else _serialize_usage(end),
        }
        return [*events, self._event(_FINAL_EVENT[reason], response=self.body)]

    def error(self, error: Mapping[str, Any]) -> Event:
        """The last event of a stream that breaks off."""
        return self._event("error", **{name: error[name] for name in ("code", "message", "param")})

    def _open_message(self) -> list[Event]:
        if self._open is not None and self._open.is_message:
            return []
        events = self.close_item("completed")
        events += self._start(answer_message(self._new_id("msg_"), "in_progress", []))
        return [*events, self._part_event("response.content_part.added", part=output_text(""))]

    def _start(self, item: Item) -> list[Event]:
        self._open = _OpenItem(item)
        return [self._event("response.output_item.added", output_index=len(self._output), item=item)]

    def _append(self, text: str, logprobs: Sequence[Logprob] = ()) -> None:
        self._current.pieces.append(text)
        self._current.logprobs += logprobs
        self._current.deltas.append([len(text), len(logprobs)])

    def close_item(self, status: str) -> list[Event]:
        """The end of the item that is open, if one is; a custom tool's call has no status."""
        if self._open is None:
            return []
        item = self._open.finished(status)
        if self._open.is_message:
            part = item["content"][0]
            shown = [_without_bytes(token) for token in part["logprobs"]]
            events = [
                self._part_event("response.output_text.done", text=part["text"], logprobs=shown),
                self._part_event("response.content_part.done", part=part),
            ]
        else:
            field_name, event = _CALL_TEXTS[item["type"]]
            events = [self._item_event(f"response.{event}.done", **{field_name: item[field_name]})]
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=item))
        self.deltas[item["id"]] = self._open.deltas
        self._output.append(item)
        self._open = None
        return events

    def _part_event(self, kind: str, **fields: object) -> Event:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: object) -> Event:
        return self._event(kind, item_id=self._current.item["id"], output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: object) -> Event:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, **fields}


def replay_events(body: Mapping[str, Any], deltas: Mapping[str, list[list[int]]]) -> Iterator[Event]:
    """The events of the stream of a finished response, with the same sequence numbers.

    Args:
        body: The response.
        deltas: ``ResponseBuilder.deltas``.
    """
    item_ids = iter([item["id"] for item in body["output"]])
    unfinished = {"completed_at": None, "incomplete_details": None, "error": None, "usage": None}
    builder = ResponseBuilder(dict(body) | unfinished, lambda _prefix: next(item_ids))
    yield from builder.begin()
    for item in body["output"]:
        is_message = item["type"] == "message"
        if is_message:
            part = item["content"][0]
            yield from builder.add_text("")
            text, tokens = part["text"], part["logprobs"]
        else:
            yield from builder.begin_call(item["call_id"], item["name"], is_custom=item["type"] == CUSTOM_CALL)
            text, tokens = item[_CALL_TEXTS[item["type"]][0]], []
        text_start = token_start = 0
        for characters, count in deltas.get(item["id"], []):
            piece = text[text_start : text_start + characters]
            logprobs = tokens[token_start : token_start + count]
            text_start, token_start = text_start + characters, token_start + count
            yield from builder.add_text(piece, logprobs) if is_message else builder.add_call_text(piece)
        yield from builder.close_item(item.get("status", "completed"))
    reason = next(reason for reason, status in _FINAL_STATUS.items() if status == body["status"])
    *ends, last = builder.finish(reason)
    yield from ends
    yield last | {"response": dict(body)}


def server_sent_event(event: Event) -> str:
    """An event as it is sent."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False, allow_nan=False)}\n\n"


def _without_bytes(token: Logprob) -> Event:
    """A token of an event, which has no bytes, unlike in an item."""
    top = [{"token": other["token"], "logprob": other["logprob"]} for other in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": top}


def _serialize_usage(end: AnswerEnd) -> dict[str, Any]:
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }
