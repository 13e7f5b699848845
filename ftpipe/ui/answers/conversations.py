"""Conversations with one to four models at once: each model answers in a thread, whether or not a page looks."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftpipe.errors import FtpipeError, RequestRefusedError, UsageError
from ftpipe.providers.responses import AnswerPiece
from ftpipe.records.evaluation import TokenLogprob
from ftpipe.ui.answers.sampling import TOP_LOGPROBS, ChatFields

MAX_MODELS = 4
MAX_CONVERSATIONS = 50
"""Conversations that are remembered; they end with the server."""
MAX_TURNS = 50
MAX_ANSWER_CHARACTERS = 400_000

StreamPieces = Callable[..., Iterator[AnswerPiece]]
"""``stream`` of the models of a provider."""


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A model that answers."""

    name: str
    """As the page's URL has it: a name, an alias or a base model."""
    model: str
    """Its name at the provider."""
    provider: str
    trained_with: str = ""
    """The system message that it was trained with."""
    notice: str = ""
    """What the user should know before asking it."""


@dataclass
class Answer:
    """An answer, as far as it has come."""

    model: ChatModel
    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish_reason: str = ""
    completion_tokens: int | None = None
    seconds: float = 0.0
    error: str = ""
    hint: str = ""
    is_done: bool = False

    def add(self, piece: AnswerPiece) -> None:
        """Add a piece of the stream."""
        self.text += piece.text
        self.tokens += piece.logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.completion_tokens = piece.completion_tokens or self.completion_tokens
        for part in piece.tool_calls:
            index = part.get("index")
            function = part.get("function") or {}
            call = self.tool_calls.setdefault(index if isinstance(index, int) else 0, {"name": "", "arguments": ""})
            call["id"] = call.get("id") or str(part.get("id") or "")
            call["name"] += str(function.get("name") or "")
            call["arguments"] += str(function.get("arguments") or "")

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of a conversation."""
        calls = [
            {
                "id": call.get("id") or f"call_{index}",
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for index, call in sorted(self.tool_calls.items())
        ]
        message: dict[str, Any] = {"role": "assistant", "content": self.text if self.text or not calls else None}
        return {**message, "tool_calls": calls} if calls else message


@dataclass
class Turn:
    """A question and the answers to it."""

    number: int
    text: str
    fields: ChatFields
    """The parameters with which it was asked."""
    answers: tuple[Answer, ...]
    is_stopped: bool = False

    @property
    def is_done(self) -> bool:
        """Whether all models have answered."""
        return all(answer.is_done for answer in self.answers)


@dataclass
class Conversation:
    """A conversation; every model has its own history."""

    id: str
    models: tuple[ChatModel, ...]
    turns: list[Turn] = field(default_factory=list)

    def question_id(self, turn: Turn) -> str:
        """The id of a question among those of all conversations."""
        return f"{self.id}-{turn.number}"

    def answer_id(self, turn: Turn, column: int) -> str:
        """The id of an answer among those of all conversations."""
        return f"{self.question_id(turn)}-{column}"

    def messages(self, column: int, turn: int) -> list[dict[str, Any]]:
        """What one model is asked in a turn."""
        messages: list[dict[str, Any]] = []
        if system := self.turns[turn].fields["system"]:
            messages.append({"role": "system", "content": system})
        for one in self.turns[: turn + 1]:
            messages.append({"role": "user", "content": one.text})
            if one.number < turn:
                messages.append(one.answers[column].message)
        return messages


class Conversations:
    """The conversations of one project.

    Args:
        open_stream: Opens a provider by its name and returns the ``stream`` of its models.
        clock: Monotonic seconds.
    """

    def __init__(
        self, open_stream: Callable[[str], StreamPieces], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_stream = open_stream
        self._clock = clock
        self._known: OrderedDict[str, Conversation] = OrderedDict()
        self._changed = threading.Condition()

    def get(self, conversation_id: str) -> Conversation | None:
        """A conversation; ``None`` if it is not remembered any more."""
        return self._known.get(conversation_id)

    def ask(
        self, models: Sequence[ChatModel], fields: ChatFields, text: str, *, conversation_id: str = ""
    ) -> Conversation:
        """Ask models a question, in a conversation with the same models or in a new one.

        Args:
            models: One to four.
            fields: The parameters.
            text: The question.
            conversation_id: The conversation to go on with.

        Raises:
            UsageError: Something is missing or wrong, or the models are still answering.
        """
        if not text:
            raise UsageError("there is no message to send", "write one")
        if not 1 <= len(models) <= MAX_MODELS:
            raise UsageError(f"{len(models)} models were chosen", f"choose 1 to {MAX_MODELS}")
        sampling = fields.sampling()
        with self._changed:
            conversation = self._known.get(conversation_id)
            if conversation is None or conversation.models != tuple(models):
                conversation = Conversation(secrets.token_urlsafe(9), tuple(models))
                self._known[conversation.id] = conversation
                while len(self._known) > MAX_CONVERSATIONS:
                    self._known.popitem(last=False)
            if conversation.turns and not conversation.turns[-1].is_done:
                raise UsageError("the models are still answering", "wait for them, or stop them")
            if len(conversation.turns) >= MAX_TURNS:
                raise UsageError("the conversation is too long", "begin a new one")
            turn = Turn(len(conversation.turns), text, fields, tuple(Answer(model) for model in models))
            conversation.turns.append(turn)
        for column in range(len(models)):
            thread = threading.Thread(
                target=self._answer, args=(conversation, turn, column, sampling), daemon=True, name="ui-answer"
            )
            thread.start()
        return conversation

    def stop(self, conversation: Conversation) -> None:
        """Stop the answers of the last turn; what has come is kept."""
        if conversation.turns:
            conversation.turns[-1].is_stopped = True

    def wait(self, turn: Turn, seconds: float) -> bool:
        """Wait until a turn is done, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: turn.is_done, seconds)

    def _answer(self, conversation: Conversation, turn: Turn, column: int, sampling: dict[str, Any]) -> None:
        answer, started = turn.answers[column], self._clock()
        messages = conversation.messages(column, turn.number)
        try:
            stream = self._open_stream(answer.model.provider)
            for piece in _with_probabilities(stream, answer.model.model, messages, sampling):
                with self._changed:
                    answer.add(piece)
                if turn.is_stopped or len(answer.text) > MAX_ANSWER_CHARACTERS:
                    answer.finish_reason = "stopped"
                    break
        except FtpipeError as exc:
            answer.error, answer.hint = exc.message, exc.hint
        except Exception as exc:  # noqa: BLE001 - the page shows it
            answer.error = f"the answer could not be read: {type(exc).__name__}"
        finally:
            with self._changed:
                answer.seconds = self._clock() - started
                answer.is_done = True
                self._changed.notify_all()


def _with_probabilities(
    stream: StreamPieces, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any]
) -> Iterator[AnswerPiece]:
    """The pieces of an answer, with the probabilities of its tokens if the endpoint has them."""
    is_started = False
    try:
        for piece in stream(model, messages, **sampling, logprobs=True, top_logprobs=TOP_LOGPROBS):
            is_started = True
            yield piece
    except RequestRefusedError:
        if is_started:
            raise
        yield from stream(model, messages, **sampling)
