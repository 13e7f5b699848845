"""Turn a conversation into token ids and labels: only what the assistant says is trained, with its end-of-turn token.

The conversation is rendered with the base's own chat template. For each assistant message two more renderings are
made, the conversation before it with the generation prompt and the conversation up to it; the text between the two,
up to and including the end-of-turn token, is what the model will have to write, and its tokens get labels. Every
other position has the label ``-100``, which no loss runs over. This needs no ``{% generation %}`` markers, which most
stock templates lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftpipe.modeling.chat_messages import ChatTemplateError as ChatTemplateError
from ftpipe.modeling.chat_messages import Message, to_template_messages
from ftpipe.modeling.types import Tokenizer

IGNORE_INDEX = -100
"""Label of a position that is not trained."""

Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class Example:
    """One sequence to train on.

    Attributes:
        ids: Token ids of the rendered conversation.
        labels: The same length; the id where the token is trained, ``-100`` elsewhere.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained(self) -> int:
        """How many tokens have a label."""
        return sum(label != IGNORE_INDEX for label in self.labels)

    def truncate(self, limit: int) -> Example:
        """The first ``limit`` tokens; what is beyond is lost, as the hosted service does it."""
        return Example(self.ids[:limit], self.labels[:limit])

    def as_json(self) -> list[tuple[int, ...]]:
        """Ids and labels."""
        return [self.ids, self.labels]

    @classmethod
    def from_json(cls, pair: Sequence[Sequence[int]]) -> Example:
        """The example that ``as_json`` wrote."""
        return cls(tuple(pair[0]), tuple(pair[1]))


@dataclass(frozen=True)
class _TurnSpan:
    """An assistant turn in a rendered conversation: ``text[start:stop]`` is trained."""

    start: int
    stop: int


class ChatTokenizer:
    """Makes training sequences with one tokenizer.

    Attributes:
        unrolled: Conversations that had to be split into one sequence per trained turn so far, because the template
            writes earlier turns differently from the last one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        try:
            template = tokenizer.get_chat_template()
        except ValueError as exc:
            raise ChatTemplateError(
                "this base has no chat template, so its conversations cannot be written down",
                "choose an instruct model, whose tokenizer carries a template",
            ) from exc
        if not tokenizer.is_fast:
            raise ChatTemplateError(
                "this base's tokenizer gives no character offsets", "choose a base with a tokenizer.json"
            )
        self._tokenizer = tokenizer
        self._template: str = template
        self._special = frozenset(tokenizer.all_special_ids) | _added_special_ids(tokenizer)
        self.unrolled = 0

    def examples(self, record: Mapping[str, Any]) -> list[Example]:
        """The sequences of one chat record: one, or one per trained turn where the template rewrites earlier turns.

        Raises:
            ChatTemplateError: The template refuses the record, or nothing in it would be trained.
        """
        raw = record.get("messages") or []
        chosen = [i for i, m in enumerate(raw) if m.get("role") == "assistant" and m.get("weight", 1) != 0]
        if not chosen:
            raise ChatTemplateError("no assistant message is trained", "give at least one a weight other than 0")
        tools = record.get("tools") or [{"type": "function", "function": f} for f in record.get("functions") or []]
        messages = to_template_messages(raw, tools, self._template)
        chosen = [i + len(messages) - len(raw) for i in chosen]
        whole = self._render(messages, tools)
        turns: list[_TurnSpan] = []
        for index in chosen:
            before, upto = self._turn_bounds(messages, tools, index)
            if not whole.startswith(upto):
                return self._split_per_turn(messages, tools, chosen)
            turns.append(self._turn(before, upto))
        return [self._encode(whole, turns)]

    def pair(self, record: Mapping[str, Any]) -> tuple[Example, Example]:
        """The preferred and the other sequence of one preference record; only the last turn is trained.

        Raises:
            ChatTemplateError: The template refuses the record.
        """
        asked = record["input"]
        chosen, rejected = (
            {"messages": [*_untrained(asked["messages"]), *record[key][:1]], "tools": asked.get("tools")}
            for key in ("preferred_output", "non_preferred_output")
        )
        return self.examples(chosen)[-1], self.examples(rejected)[-1]

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Token ids of a conversation that the model is to go on with."""
        fitted = to_template_messages(messages, tools, self._template)
        return list(self._tokenizer(self._render(fitted, tools, ask=True), add_special_tokens=False)["input_ids"])

    def end_of_turn(self) -> int:
        """Id of the token that closes an assistant turn.

        Raises:
            ChatTemplateError: The template closes turns with no special token.
        """
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        before, upto = self._turn_bounds(messages, None, 1)
        end = self._turn(before, upto).stop
        return int(self._tokenizer(upto[len(before) : end], add_special_tokens=False)["input_ids"][-1])

    def _split_per_turn(self, messages: list[dict[str, Any]], tools: Tools, chosen: Sequence[int]) -> list[Example]:
        self.unrolled += 1
        found = []
        for index in chosen:
            before, upto = self._turn_bounds(messages, tools, index)
            found.append(self._encode(upto, [self._turn(before, upto)]))
        return found

    def _turn_bounds(self, messages: list[dict[str, Any]], tools: Tools, index: int) -> tuple[str, str]:
        before = self._render(messages[:index], tools, ask=True)
        upto = self._render(messages[: index + 1], tools)
        if not upto.startswith(before):
            raise ChatTemplateError(
                "the chat template does not begin a finished turn with its own generation prompt",
                "this base cannot be trained from chat data as it stands; choose another base",
            )
        return before, upto

    def _render(self, messages: list[dict[str, Any]], tools: Tools, *, ask: bool = False) -> str:
        from jinja2.exceptions import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=ask
            )
        except (TemplateError, TypeError, KeyError, AttributeError, ValueError) as exc:
            raise ChatTemplateError(
                f"the base's chat template refuses the conversation: {exc}", "change the order of roles"
            ) from exc
        return str(text)

    def _turn(self, before: str, upto: str) -> _TurnSpan:
        """The part of a turn that is trained: from the generation prompt to the end-of-turn token."""
        segment = upto[len(before) :]
        encoded = self._tokenizer(segment, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for id_, (_, end) in zip(*_ids_and_offsets(encoded), strict=True) if id_ in self._special]
        if not ends or segment[ends[-1] :].strip():
            raise ChatTemplateError(
                "the chat template ends an assistant turn without an end-of-turn token, so the model would never stop",
                "choose a base whose template closes each turn with a special token",
            )
        return _TurnSpan(len(before), len(before) + ends[-1])

    def _encode(self, text: str, turns: Sequence[_TurnSpan]) -> Example:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = _ids_and_offsets(encoded)
        labels = tuple(_labels(ids, offsets, turns))
        example = Example(tuple(ids), labels)
        if example.trained == 0:
            raise ChatTemplateError("nothing of the record is trained", "give an assistant message some text")
        return example


def _untrained(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        yield {**message, "weight": 0} if message.get("role") == "assistant" else message


def _added_special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(int(id_) for id_, token in tokenizer.added_tokens_decoder.items() if token.special)


def _ids_and_offsets(encoded: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    return list(encoded["input_ids"]), [(int(start), int(end)) for start, end in encoded["offset_mapping"]]


def _labels(ids: Sequence[int], offsets: Sequence[tuple[int, int]], turns: Sequence[_TurnSpan]) -> Iterator[int]:
    """A label for each token; one that straddles a turn's start belongs to the prompt and stays untrained."""
    waiting = list(turns)
    for id_, (start, end) in zip(ids, offsets, strict=True):
        while waiting and start >= waiting[0].stop:
            waiting.pop(0)
        inside = bool(waiting) and waiting[0].start <= start and end <= waiting[0].stop and start < end
        yield id_ if inside else IGNORE_INDEX
