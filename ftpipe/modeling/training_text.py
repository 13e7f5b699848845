"""Render a conversation as the text that is trained or continued, and find the answers in it; needs no tokenizer.

For each assistant message the conversation is rendered before the message, with the generation prompt, and up to the
message. The text between the two, up to and including the end-of-turn token, is what the model has to write. This needs
no ``{% generation %}`` markers, which most templates lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ftpipe.modeling.chat_messages import ChatTemplateError, Message, is_trained
from ftpipe.modeling.chat_template import ChatTemplate, Conversation, Tools


@dataclass(frozen=True)
class AnswerSpan:
    """An answer in a rendered conversation: ``text[start:stop]`` is trained, with the end-of-turn token."""

    start: int
    stop: int


@dataclass(frozen=True)
class RenderedText:
    """A rendered conversation.

    Attributes:
        text: With a mark in each control token that a content contains.
        mark: The character that is the mark; see ``control_tokens``.
        starts: Positions at which an answer starts. What is before and after is tokenized apart.
        answers: The trained answers.
    """

    text: str
    mark: str
    starts: frozenset[int]
    answers: tuple[AnswerSpan, ...] = ()

    def parts(self) -> Iterator[tuple[int, str]]:
        """Position and text of each part that is tokenized by itself, without the marks."""
        marks = [i for i, character in enumerate(self.text) if character == self.mark] if self.mark in self.text else []
        cuts = sorted({0, len(self.text), *self.starts, *marks})
        for begin, end in pairwise(cuts):
            first = begin + (self.text[begin] == self.mark)
            if first < end:
                yield first, self.text[first:end]


def prompt_text(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Tools = None,
    variables: Mapping[str, Any] | None = None,
) -> RenderedText:
    """A conversation that the model continues.

    Raises:
        ChatTemplateError: The template does not accept it.
    """
    conversation = Conversation(template, messages, tools, variables)
    text = _render(conversation, add_generation_prompt=True)
    return RenderedText(text, conversation.mark, _answer_starts(template, text))


def training_texts(template: ChatTemplate, record: Mapping[str, Any]) -> list[RenderedText]:
    """The texts of one chat record: one, or one per trained answer if the template rewrites earlier turns.

    Raises:
        ChatTemplateError: The template does not accept the record, or no message of it is trained.
    """
    raw = record.get("messages") or []
    chosen = [i for i, m in enumerate(raw) if is_trained(m)]
    if not chosen:
        raise ChatTemplateError("no assistant message is trained", "set the weight of at least one of them to 1")
    tools = record.get("tools") or [{"type": "function", "function": f} for f in record.get("functions") or []]
    conversation = Conversation(template, raw, tools)
    whole, mark = _render(conversation), conversation.mark
    starts = _answer_starts(template, whole)
    bounds = [_answer_bounds(template, conversation, raw, index, whole) for index in chosen]
    answers = [_answer(template, start, upto, mark) for start, upto in bounds]
    if all(
        a.start in starts and whole.startswith(upto[: a.stop]) for a, (_, upto) in zip(answers, bounds, strict=True)
    ):
        return [RenderedText(whole, mark, starts, tuple(answers))]
    return [
        RenderedText(upto, mark, _answer_starts(template, upto) | {start}, (answer,))
        for (start, upto), answer in zip(bounds, answers, strict=True)
    ]


def pair_records(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The preferred and the non-preferred answer of a preference record, each as a chat record that trains it alone."""
    prompt = record["input"]
    chosen, rejected = (
        {"messages": [*_untrained(prompt["messages"]), *record[key][:1]], "tools": prompt.get("tools")}
        for key in ("preferred_output", "non_preferred_output")
    )
    return chosen, rejected


def end_of_turn(template: ChatTemplate) -> str:
    """The token that ends an answer.

    Raises:
        ChatTemplateError: The template ends turns without a special token.
    """
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (rendered,) = training_texts(template, {"messages": messages})
    text = rendered.text[: rendered.answers[-1].stop]
    start, end = max(template.special_finder.find(text), key=lambda span: span[1])
    return text[start:end]


def _untrained(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        yield {**message, "weight": 0} if message.get("role") == "assistant" else message


def _answer_starts(template: ChatTemplate, text: str) -> frozenset[int]:
    """The end of each generation prompt."""
    word = template.generation_prompt
    starts, position = [], text.find(word) if word else -1
    while position >= 0:
        starts.append(position + len(word))
        position = text.find(word, position + 1)
    return frozenset(starts)


def _answer_bounds(
    template: ChatTemplate, conversation: Conversation, raw: Sequence[Message], index: int, whole: str
) -> tuple[int, str]:
    """Where the answer at an index starts, and the text up to its end."""
    stop = index + conversation.offset
    upto = whole if index == len(raw) - 1 else _render(conversation, stop + 1)
    if any(message.get("role") not in ("system", "developer") for message in raw[:index]):
        before = _render(conversation, stop, add_generation_prompt=True)
        if upto.startswith(before):
            return len(before), upto
    elif starts := _answer_starts(template, upto):  # the assistant opens the dialogue, so there is no prompt to render
        return min(starts), upto
    raise ChatTemplateError(
        "the chat template does not start a finished turn with its generation prompt",
        "this base model cannot be trained on chat data; choose another one",
    )


def _answer(template: ChatTemplate, start: int, upto: str, mark: str) -> AnswerSpan:
    segment = upto[start:]
    after = segment.rfind(template.answer_end) if template.answer_end else -1
    # some templates write one more token behind a whole conversation, which is not the end of the turn
    turn = segment[: after + len(template.answer_end)] if after >= 0 else segment
    end = max((end for _, end in template.special_finder.find(turn)), default=0)
    if not end or turn[end:].replace(mark, "").strip():
        raise ChatTemplateError(
            "the chat template ends an assistant turn without an end-of-turn token, so the model would never stop",
            "choose a base model whose template ends each turn with a special token",
        )
    return AnswerSpan(start, start + end)


def _render(conversation: Conversation, stop: int | None = None, *, add_generation_prompt: bool = False) -> str:
    try:
        return conversation.render(stop, add_generation_prompt=add_generation_prompt)
    except ChatTemplateError as exc:
        raise ChatTemplateError(
            f"the base model's chat template does not accept the conversation: {exc.message}",
            "change the order of roles",
        ) from exc
