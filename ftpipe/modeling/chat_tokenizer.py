"""Turn a conversation into token ids and labels: only assistant turns are trained, with their end-of-turn token.

The conversation is rendered with the base model's chat template. For each assistant message it is rendered twice more:
before the message, with the generation prompt, and up to the message. The text between the two, up to and including
the end-of-turn token, is what the model has to write, and its tokens get labels. Every other position has the label
``-100``, which the loss ignores. This needs no ``{% generation %}`` markers, which most templates lack.
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
        labels: Of the same length: the id of each trained token, ``-100`` for the others.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that have a label."""
        return sum(label != IGNORE_INDEX for label in self.labels)

    def truncate(self, limit: int) -> Example:
        """The first ``limit`` tokens; the rest is dropped, as the hosted service does."""
        return Example(self.ids[:limit], self.labels[:limit])

    def to_json(self) -> list[tuple[int, ...]]:
        """Ids and labels."""
        return [self.ids, self.labels]

    @classmethod
    def from_json(cls, pair: Sequence[Sequence[int]]) -> Example:
        """The example that ``to_json`` returned."""
        return cls(tuple(pair[0]), tuple(pair[1]))


@dataclass(frozen=True)
class _TurnSpan:
    """An assistant turn in a rendered conversation: ``text[start:stop]`` is trained."""

    start: int
    stop: int


class ChatTokenizer:
    """Makes training sequences and prompts with one tokenizer.

    Attributes:
        split_conversations: Number of conversations that were split into one sequence per trained turn, because the
            template renders earlier turns differently from the last one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        try:
            template = tokenizer.get_chat_template()
        except ValueError as exc:
            raise ChatTemplateError(
                "this base model has no chat template, so conversations cannot be rendered for it",
                "choose an instruct model, whose tokenizer has a template",
            ) from exc
        if not tokenizer.is_fast:
            raise ChatTemplateError(
                "this base model's tokenizer has no character offsets", "choose a base model with a tokenizer.json"
            )
        self._tokenizer = tokenizer
        self._template: str = template
        self._special = frozenset(tokenizer.all_special_ids) | _added_special_ids(tokenizer)
        self.split_conversations = 0

    def examples(self, record: Mapping[str, Any]) -> list[Example]:
        """The sequences of one chat record: one, or one per trained turn if the template rewrites earlier turns.

        Raises:
            ChatTemplateError: The template does not accept the record, or no message of it is trained.
        """
        raw = record.get("messages") or []
        chosen = [i for i, m in enumerate(raw) if m.get("role") == "assistant" and m.get("weight", 1) != 0]
        if not chosen:
            raise ChatTemplateError("no assistant message is trained", "set the weight of at least one of them to 1")
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
        """The preferred and the non-preferred sequence of a preference record; only the last turn is trained.

        Raises:
            ChatTemplateError: The template does not accept the record.
        """
        prompt = record["input"]
        chosen, rejected = (
            {"messages": [*_untrained(prompt["messages"]), *record[key][:1]], "tools": prompt.get("tools")}
            for key in ("preferred_output", "non_preferred_output")
        )
        return self.examples(chosen)[-1], self.examples(rejected)[-1]

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Token ids of a conversation that the model continues."""
        template_messages = to_template_messages(messages, tools, self._template)
        return list(
            self._tokenizer(
                self._render(template_messages, tools, add_generation_prompt=True), add_special_tokens=False
            )["input_ids"]
        )

    def end_of_turn(self) -> int:
        """Id of the token that ends an assistant turn.

        Raises:
            ChatTemplateError: The template ends turns without a special token.
        """
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        before, upto = self._turn_bounds(messages, None, 1)
        end = self._turn(before, upto).stop
        return int(self._tokenizer(upto[len(before) : end], add_special_tokens=False)["input_ids"][-1])

    def _split_per_turn(self, messages: list[dict[str, Any]], tools: Tools, chosen: Sequence[int]) -> list[Example]:
        self.split_conversations += 1
        examples = []
        for index in chosen:
            before, upto = self._turn_bounds(messages, tools, index)
            examples.append(self._encode(upto, [self._turn(before, upto)]))
        return examples

    def _turn_bounds(self, messages: list[dict[str, Any]], tools: Tools, index: int) -> tuple[str, str]:
        before = self._render(messages[:index], tools, add_generation_prompt=True)
        upto = self._render(messages[: index + 1], tools)
        if not upto.startswith(before):
            raise ChatTemplateError(
                "the chat template does not start a finished turn with its generation prompt",
                "this base model cannot be trained on chat data; choose another one",
            )
        return before, upto

    def _render(self, messages: list[dict[str, Any]], tools: Tools, *, add_generation_prompt: bool = False) -> str:
        from ftpipe.modeling.template_rendering import render_chat_template

        variables = {
            **self._tokenizer.special_tokens_map,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return render_chat_template(self._tokenizer.get_chat_template(None, tools or None), variables)
        except ChatTemplateError as exc:
            raise ChatTemplateError(
                f"the base model's chat template does not accept the conversation: {exc.message}",
                "change the order of roles",
            ) from exc

    def _turn(self, before: str, upto: str) -> _TurnSpan:
        """The part of a turn that is trained: from the generation prompt to the end-of-turn token."""
        segment = upto[len(before) :]
        encoded = self._tokenizer(segment, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for id_, (_, end) in zip(*_ids_and_offsets(encoded), strict=True) if id_ in self._special]
        if not ends or segment[ends[-1] :].strip():
            raise ChatTemplateError(
                "the chat template ends an assistant turn without an end-of-turn token, so the model would never stop",
                "choose a base model whose template ends each turn with a special token",
            )
        return _TurnSpan(len(before), len(before) + ends[-1])

    def _encode(self, text: str, turns: Sequence[_TurnSpan]) -> Example:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = _ids_and_offsets(encoded)
        labels = tuple(_labels(ids, offsets, turns))
        example = Example(tuple(ids), labels)
        if example.trained_tokens == 0:
            raise ChatTemplateError("no token of the record is trained", "add text to an assistant message")
        return example


def _untrained(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        yield {**message, "weight": 0} if message.get("role") == "assistant" else message


def _added_special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(int(id_) for id_, token in tokenizer.added_tokens_decoder.items() if token.special)


def _ids_and_offsets(encoded: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    return list(encoded["input_ids"]), [(int(start), int(end)) for start, end in encoded["offset_mapping"]]


def _labels(ids: Sequence[int], offsets: Sequence[tuple[int, int]], turns: Sequence[_TurnSpan]) -> Iterator[int]:
    """A label for each token; one that overlaps the start of a turn belongs to the prompt and is not trained."""
    remaining = list(turns)
    for id_, (start, end) in zip(ids, offsets, strict=True):
        while remaining and start >= remaining[0].stop:
            remaining.pop(0)
        inside = bool(remaining) and remaining[0].start <= start and end <= remaining[0].stop and start < end
        yield id_ if inside else IGNORE_INDEX
