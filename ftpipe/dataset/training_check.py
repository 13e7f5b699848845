"""Check whether the local trainer takes a record: render it like the trainer, with the base model's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftpipe.modeling.chat_messages import ChatTemplateError, Message
from ftpipe.modeling.chat_template import ChatTemplate
from ftpipe.modeling.training_text import pair_records, training_texts
from ftpipe.paths import models_dir

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_QUESTION_AND_ANSWER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
MAX_CACHED_SHAPES = 20_000
"""Shapes of conversations whose result is cached."""


class TrainingCheck:
    """Says which records a base model cannot be trained on."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._errors: dict[object, str] = {}

    def row_error(self, record: Mapping[str, Any], *, plain: bool = False) -> str:
        """Why a record cannot be rendered for training; empty if it can, or if the base model has no template.

        Of records with the same roles, keys and kinds of content only the first one is rendered.

        Args:
            record: A chat or preference record without faults that other rules report.
            plain: True if every message has only a role and a text that is not blank.
        """
        if plain:
            key: tuple[object, ...] = tuple([message["role"] for message in record["messages"]])
        else:
            key = _shape(record)
        error = self._errors.get(key)
        if error is None:
            error = self._render_error(record) if self.template.sources else ""
            if len(self._errors) < MAX_CACHED_SHAPES:
                self._errors[key] = error
        return error

    def _render_error(self, record: Mapping[str, Any]) -> str:
        records = pair_records(record) if "preferred_output" in record else (record,)
        try:
            for chat in records:
                if any(is_trained(message) for message in chat["messages"]):
                    training_texts(self.template, chat)
        except ChatTemplateError as exc:
            return exc.message
        return ""

    @property
    def template_error(self) -> str:
        """Why the end of an answer cannot be trained with this template; empty if it can."""
        if "default" not in self.template.sources:
            return "The base model has no chat template."
        try:
            training_texts(self.template, {"messages": _QUESTION_AND_ANSWER})
        except ChatTemplateError as exc:
            return f"A question and its answer cannot be trained: {exc.message}."
        return ""


def find_training_check(model: str) -> TrainingCheck | None:
    """The check for a downloaded base model or a model folder; ``None`` if there is no such folder."""
    folder = models_dir() / model if _PLAIN_NAME.fullmatch(model) else Path(model)
    if not folder.is_absolute() or not (folder / "config.json").is_file():
        return None
    return TrainingCheck(ChatTemplate.load(folder))


def is_trained(message: Mapping[str, Any]) -> bool:
    """True for an assistant message whose weight is not 0."""
    return message.get("role") == "assistant" and message.get("weight", 1) != 0


def _shape(record: Mapping[str, Any]) -> tuple[object, ...]:
    source = record.get("input", record)
    lists = (source["messages"], record.get("preferred_output", ()), record.get("non_preferred_output", ()))
    shapes = [tuple(map(_message_shape, messages)) for messages in lists]
    return (bool(source.get("tools")), bool(source.get("functions")), *shapes)


def _message_shape(message: Message) -> object:
    content = message.get("content")
    kind = type(content).__name__
    if isinstance(content, str):
        kind = ("text" if content.strip() else "blank") + " reasoning" * ("</think>" in content)
    elif isinstance(content, list):
        kind = ",".join(str(part.get("type")) for part in content if isinstance(part, dict))
    if len(message) <= 2 and not message.get("tool_calls"):
        return message.get("role"), kind
    return message.get("role"), kind, is_trained(message), *sorted(message)


def can_be_rendered(record: Mapping[str, Any]) -> bool:
    """True for a record whose messages have no faults that other rules report."""
    if "input" not in record:
        return _are_messages(record.get("messages")) and _are_tools(record)
    source = record["input"]
    answers = [record.get(key) for key in ("preferred_output", "non_preferred_output")]
    is_pair = isinstance(source, dict) and all(_are_messages(answer) for answer in answers)
    return is_pair and _are_messages(source.get("messages")) and _are_tools(source)


def _are_messages(messages: object) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, dict)
            and message.get("role") in _ROLES
            and isinstance(message.get("content"), str | list | None)
            and all(isinstance(part, dict) for part in message.get("content") or () if type(part) is not str)
            and _are_calls(message.get("tool_calls"))
            for message in messages
        )
    )


def _are_calls(calls: object) -> bool:
    return calls is None or (
        isinstance(calls, list)
        and all(isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls)
    )


def _are_tools(source: Mapping[str, Any]) -> bool:
    return all(
        isinstance(items, list) and all(isinstance(item, dict) for item in items)
        for items in (source.get("tools") or [], source.get("functions") or [])
    )
