"""Answers and their events as the objects of ``/chat/completions``.

Source: ``openai.types.chat`` of openai-python 3.57.0, read 2026-11-29. It has no type for a streamed call of a custom
tool: such a call has ``custom`` in place of ``function``, as in a whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ftpipe.inference.detokenizer import TokenLogprob
from ftpipe.server.api.answer_events import (
    Answer,
    AnswerCall,
    AnswerEnd,
    AnswerEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)


def serialize_choice(index: int, answer: Answer, *, has_logprobs: bool, is_legacy: bool) -> dict[str, Any]:
    """A finished answer as a choice.

    Args:
        index: The choice's number.
        answer: The answer.
        has_logprobs: Whether the request wants log-probabilities.
        is_legacy: Whether the request has ``functions`` instead of tools.
    """
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        message["content"] = answer.text or None
    if answer.calls and is_legacy:
        message["function_call"] = {"name": answer.calls[0].name, "arguments": answer.calls[0].text}
    elif answer.calls:
        message["tool_calls"] = [_serialize_call(call) for call in answer.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": serialize_logprobs(answer.logprobs) if has_logprobs else None,
        "finish_reason": finish_reason(answer.end, is_legacy=is_legacy),
    }


def finish_reason(end: AnswerEnd | None, *, is_legacy: bool) -> str:
    """Why an answer ended."""
    reason = "stop" if end is None else end.finish_reason
    return "function_call" if is_legacy and reason == "tool_calls" else reason


def _serialize_call(call: AnswerCall) -> dict[str, Any]:
    if call.is_custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.text}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}


class DeltaSerializer:
    """Serialises the events of one answer as the deltas of its chunks.

    Args:
        is_legacy: Whether the request has ``functions`` instead of tools.
    """

    def __init__(self, *, is_legacy: bool) -> None:
        self._is_legacy = is_legacy
        self._is_custom = False

    def serialize(self, event: AnswerEvent) -> dict[str, Any]:
        """The delta of an event; empty if it has none."""
        match event:
            case TextDelta(text):
                return {"content": text}
            case ToolCallStart(_, id_, name, is_custom) if not self._is_legacy:
                self._is_custom = is_custom
                return {"tool_calls": [{"index": event.index, **_serialize_call(AnswerCall(id_, name, is_custom))}]}
            case ToolCallStart(_, _, name):
                return {"function_call": {"name": name, "arguments": ""}}
            case ToolCallDelta(_, text) if self._is_legacy:
                return {"function_call": {"arguments": text}}
            case ToolCallDelta(index, text):
                called = {"custom": {"input": text}} if self._is_custom else {"function": {"arguments": text}}
                return {"tool_calls": [{"index": index, **called}]}
            case ToolCallEnd() | AnswerEnd():
                return {}


def serialize_usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """The tokens of all answers, and those of their prompt."""
    ends = [answer.end for answer in answers if answer.end is not None]
    prompt = ends[0].prompt_tokens if ends else 0
    completion = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def serialize_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities of tokens."""
    return {"content": [serialize_logprob(token) for token in tokens], "refusal": None}


def serialize_logprob(token: TokenLogprob) -> dict[str, Any]:
    """A token with its alternatives."""
    return {**_serialize_token(token), "top_logprobs": [_serialize_token(other) for other in token.top]}


def _serialize_token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
