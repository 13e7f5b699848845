"""One answer as events, from which whole and streamed answers of every API are serialised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from ftpipe.inference.custom_tool_input import CustomInputReader
from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.inference.tool_call_parser import (
    CallArguments,
    CallEnd,
    CallStart,
    ParsedPiece,
    TextPiece,
    ToolCallParser,
)
from ftpipe.server.api.chat_tools import ChatTools
from ftpipe.server.protocol import new_id

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """What all events have.

    Attributes:
        logprobs: Of the tokens that were generated since the event before; empty if they were not requested.
    """

    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta(_Event):
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart(_Event):
    """A tool call begins.

    Attributes:
        index: Counts the calls of the answer.
        id: The call's id.
        name: The tool's name.
        is_custom: Whether the tool takes a text instead of arguments.
    """

    index: int
    id: str
    name: str
    is_custom: bool


@dataclass(frozen=True, slots=True)
class ToolCallDelta(_Event):
    """The next piece of a call's arguments, as the model wrote them, or of a custom tool's input."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd(_Event):
    """A call has ended; without ``is_complete`` its arguments broke off."""

    index: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class AnswerEnd(_Event):
    """The last event.

    Attributes:
        finish_reason: Why the answer ended.
        prompt_tokens: Tokens of the conversation.
        cached_tokens: Those of them that were computed before.
        completion_tokens: Tokens of the answer.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


AnswerEvent: TypeAlias = TextDelta | ToolCallStart | ToolCallDelta | ToolCallEnd | AnswerEnd


@dataclass(slots=True)
class AnswerCall:
    """A call as far as it has been generated."""

    id: str
    name: str
    is_custom: bool
    text: str = ""
    """The arguments, or a custom tool's input."""


@dataclass(slots=True)
class Answer:
    """An answer as far as it has been generated."""

    text: str = ""
    calls: list[AnswerCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: AnswerEnd | None = None

    def add(self, event: AnswerEvent) -> None:
        """Append an event."""
        self.logprobs += event.logprobs
        match event:
            case TextDelta(text):
                self.text += text
            case ToolCallStart(_, id_, name, is_custom):
                self.calls.append(AnswerCall(id_, name, is_custom))
            case ToolCallDelta(index, text):
                self.calls[index].text += text
            case ToolCallEnd():
                pass
            case AnswerEnd():
                self.end = event


def answer_events(deltas: Iterator[Delta], tools: ChatTools) -> Iterator[AnswerEvent]:
    """The events of an answer.

    Args:
        deltas: From the engine.
        tools: What it can call; if that is nothing, all of it is text.
    """
    reader: _CallReader | _TextReader = _CallReader(tools) if tools.functions else _TextReader()
    logprobs: tuple[TokenLogprob, ...] = ()
    for delta in deltas:
        logprobs += delta.logprobs
        events = reader.read(delta.text)
        reason = delta.finish_reason
        if reason is not None:
            events += reader.end()
        if events:
            yield from events[:-1]
            yield replace(events[-1], logprobs=logprobs)
            logprobs = ()
        if reason is not None:
            finish_reason = reader.finish_reason("length" if reason == "length" else "stop")
            tokens = delta.prompt_tokens, delta.cached_tokens, delta.completion_tokens
            yield AnswerEnd(finish_reason, *tokens, logprobs=logprobs)


class _TextReader:
    """Takes all of an answer as text."""

    def read(self, text: str) -> list[AnswerEvent]:
        return [TextDelta(text)] if text else []

    def end(self) -> list[AnswerEvent]:
        return []

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        return reason


class _CallReader:
    """Finds calls in the text of an answer."""

    def __init__(self, tools: ChatTools) -> None:
        self._custom_names = tools.custom_names
        self._max_calls = 1 if tools.has_one_call else None
        self._parser = ToolCallParser(tools.forced_names)
        self._count = 0
        self._input: CustomInputReader | None = None
        self._is_left_out = False
        """True within a call that is one too many."""
        self._is_whole = False
        """True if the last thing in the answer is a complete call."""

    def read(self, text: str) -> list[AnswerEvent]:
        return [event for piece in self._parser.feed(text) for event in self._events(piece)]

    def end(self) -> list[AnswerEvent]:
        return [event for piece in self._parser.flush() for event in self._events(piece)]

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """A call that is whole is a call, also if the answer has reached its limit behind it."""
        return "tool_calls" if self._count and (reason == "stop" or self._is_whole) else reason

    def _events(self, piece: ParsedPiece) -> Iterator[AnswerEvent]:
        if isinstance(piece, CallStart):
            self._is_left_out = self._count == self._max_calls
        self._is_whole = isinstance(piece, CallEnd) and (piece.is_complete or self._is_left_out)
        if isinstance(piece, TextPiece):
            yield TextDelta(piece.text)
        elif self._is_left_out:
            return
        elif isinstance(piece, CallStart):
            self._count += 1
            is_custom = piece.name in self._custom_names
            self._input = CustomInputReader() if is_custom else None
            yield ToolCallStart(self._count - 1, new_id("call_"), piece.name, is_custom)
        elif isinstance(piece, CallArguments):
            yield from self._delta(piece.text if self._input is None else self._input.read(piece.text))
        else:
            yield from self._delta("" if self._input is None else self._input.flush(is_complete=piece.is_complete))
            yield ToolCallEnd(self._count - 1, piece.is_complete)

    def _delta(self, text: str) -> Iterator[AnswerEvent]:
        if text:
            yield ToolCallDelta(self._count - 1, text)
