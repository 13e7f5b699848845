"""Check whether the local trainer takes a record: render it like the trainer, with the base model's files."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.atomic_files import read_json
from ftpipe.catalog.base_models import find_base
from ftpipe.modeling.base_facts import BaseFacts
from ftpipe.modeling.base_models import is_hub_id
from ftpipe.modeling.chat_messages import ChatTemplateError, Message, is_trained
from ftpipe.modeling.chat_template import ChatTemplate
from ftpipe.modeling.device import has_accelerator
from ftpipe.modeling.training_text import pair_records, training_texts
from ftpipe.paths import models_dir
from ftpipe.training.hyperparameters import DEFAULT_CONTEXT, max_sequence_length

if TYPE_CHECKING:
    from ftpipe.modeling.chat_tokenizer import ChatTokenizer

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_QUESTION_AND_ANSWER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
HUB_HOME = "~/.cache/huggingface"
"""Where the hub keeps its cache. Source: huggingface_hub, ``constants.py``, 2026-11-28."""
UNKNOWN_CONTEXT = 1 << 20
"""Context length of a model that nothing is known about: no limit of its own."""
MAX_CACHED_SHAPES = 20_000
"""Shapes of conversations whose result is cached."""


class TrainingCheck:
    """Says which records a base model cannot be trained on.

    Args:
        folder: The base model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.template = ChatTemplate.load(folder)
        self._folder = folder
        self._errors: dict[object, str] = {}

    @cached_property
    def chat_tokenizer(self) -> ChatTokenizer | None:
        """The trainer's tokenizer; ``None`` if it cannot be loaded without the trainer's packages."""
        if not (self._folder / "tokenizer.json").is_file() or importlib.util.find_spec("tokenizers") is None:
            return None
        from ftpipe.modeling.chat_tokenizer import ChatTokenizer

        try:
            return ChatTokenizer.load(self._folder)
        except Exception:  # noqa: BLE001  # tokenizers raises nothing narrower for a file that it cannot read
            return None

    def lengths(self, record: Mapping[str, Any]) -> tuple[int, int] | None:
        """Tokens of a record in training, and how many there are up to the end of its last answer.

        Of a pair both are those of the longer sequence. ``None`` if the record or the tokenizer is not usable.
        """
        if self.chat_tokenizer is None or not can_be_rendered(record):
            return None
        try:
            if "input" in record:
                length = max(len(example.ids) for example in self.chat_tokenizer.pair(record))
                return length, length
            examples = self.chat_tokenizer.examples(record)
        except ChatTemplateError:
            return None
        return max(len(e.ids) for e in examples), max(e.length_with_answers for e in examples)

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
    """The check for a base model; ``None`` if the model is not on this machine."""
    folder = _base_folder(model)
    return None if folder is None else TrainingCheck(folder)


def local_token_limit(model: str, max_length: object) -> int:
    """Tokens per sequence that the local trainer uses.

    Args:
        model: The base model.
        max_length: As the job requests it; ``None`` for the default.

    Raises:
        UsageError: It is not a number in the range of the model.
    """
    folder, known = _base_folder(model), find_base(model) if model else None
    context = BaseFacts.of_config(read_json(folder / "config.json") or {}).context if folder else None
    if context is None:
        context = DEFAULT_CONTEXT if folder else (known.context if known else None) or UNKNOWN_CONTEXT
    return max_sequence_length(max_length, max_context=context, on_accelerator=has_accelerator())


def _base_folder(model: str) -> Path | None:
    """The folder of a base model: in the models folder, an absolute path, or in the cache of the hub."""
    folder = models_dir() / model if _PLAIN_NAME.fullmatch(model) else Path(model)
    if is_hub_id(model):
        cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or HUB_HOME).expanduser() / "hub"
        repository = Path(cache) / f"models--{model.replace('/', '--')}"
        with suppress(OSError):
            folder = repository / "snapshots" / (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    return folder if folder.is_absolute() and (folder / "config.json").is_file() else None


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
