"""Renders conversations with the chat template of a local base model, exactly like the trainer but without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftpipe.modeling.chat_messages import ChatTemplateError, Message, to_template_messages
from ftpipe.paths import models_dir

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
MAX_CACHED_SHAPES = 20_000
"""Shapes of conversations whose result is cached."""


class ChatTemplate:
    """The chat template of one model folder."""

    def __init__(self, sources: Mapping[str, str], tokens: Mapping[str, str], special: frozenset[str]) -> None:
        """Use the contents of the folder's files.

        Args:
            sources: Name → source: ``default``, and ``tool_use`` if tools have a separate template. Can be empty.
            tokens: Names such as ``eos_token`` → text.
            special: Texts of all special tokens.
        """
        self.special = special
        self._sources = sources
        self._tokens = tokens
        self._errors: dict[object, str] = {}
        self._first_characters = frozenset(word[0] for word in special)
        self._pattern = re.compile("|".join(re.escape(word) for word in sorted(special, key=len, reverse=True)))

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """Read a model folder; a broken file counts as missing."""
        config = _read_json(folder / "tokenizer_config.json")
        tokens = {name: text for name in _NAMED_TOKENS if (text := _token_text(config.get(name)))}
        added = _read_json(folder / "tokenizer.json").get("added_tokens")
        listed = [*(added if isinstance(added, list) else ()), *_values(config.get("added_tokens_decoder"))]
        special = {item.get("content") for item in listed if isinstance(item, dict) and item.get("special")}
        words = {*tokens.values(), *(word for word in special if isinstance(word, str))}
        return cls(_sources(folder, config.get("chat_template")), tokens, frozenset(filter(None, words)))

    def render_error(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, plain: bool = False
    ) -> str:
        """Why the template cannot render a conversation; empty if it can.

        Of conversations with the same roles, keys and kinds of content only the first one is rendered.

        Args:
            messages: Messages in the format of the API.
            tools: Tool definitions in the format of the API.
            plain: True if every message has only a role and a text that is not blank.
        """
        if plain:
            key: tuple[object, ...] = tuple([message["role"] for message in messages])
        else:
            key = (bool(tools), *(_message_shape(message) for message in messages))
        error = self._errors.get(key)
        if error is None:
            error = "" if not self._sources else self._render_error(messages, tools)
            if len(self._errors) < MAX_CACHED_SHAPES:
                self._errors[key] = error
        return error

    def _render_error(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
        try:
            self.render(messages, tools)
        except ChatTemplateError as exc:
            return exc.message
        return ""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text, followed by the generation prompt if ``add_generation_prompt`` is set.

        Raises:
            ChatTemplateError: There is no template, or it rejects the conversation.
        """
        source = self._sources.get("tool_use" if tools and "tool_use" in self._sources else "default")
        if source is None:
            raise ChatTemplateError("the base model has no chat template", "choose an instruct model")
        from ftpipe.modeling.template_rendering import render_chat_template

        variables = {
            "messages": to_template_messages(messages, tools, self._sources["default"]),
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._tokens,
        }
        return render_chat_template(source, variables)

    def find_special_token(self, text: str) -> str:
        """The first special token in a text; empty if there is none."""
        for character in self._first_characters:
            if character in text:
                match = self._pattern.search(text)
                return match.group() if match else ""
        return ""

    @property
    def training_error(self) -> str:
        """Why the end of an answer cannot be trained with this template; empty if it can."""
        if "default" not in self._sources:
            return "The base model has no chat template."
        question = [{"role": "user", "content": "a"}]
        try:
            prompt = self.render(question, add_generation_prompt=True)
            text = self.render([*question, {"role": "assistant", "content": "b"}])
        except ChatTemplateError as exc:
            return f"The chat template cannot render a question and its answer: {exc.message}"
        if not text.startswith(prompt):
            return "The chat template does not start the assistant's turn with its generation prompt."
        if not any(text[len(prompt) :].rstrip().endswith(word) for word in self.special):
            return "The chat template ends the assistant's turn without a special token."
        return ""


def find_template(model: str) -> ChatTemplate | None:
    """The template of a downloaded base model or of a model folder; ``None`` if there is no such folder."""
    folder = models_dir() / model if _PLAIN_NAME.fullmatch(model) else Path(model)
    if not folder.is_absolute() or not (folder / "config.json").is_file():
        return None
    return ChatTemplate.load(folder)


def _message_shape(message: Message) -> object:
    content = message.get("content")
    kind = type(content).__name__
    if isinstance(content, str):
        kind = "text" if content.strip() else "blank"
    elif isinstance(content, list):
        kind = ",".join(str(part.get("type")) for part in content if isinstance(part, dict))
    calls = message.get("tool_calls")
    return (message.get("role"), kind, *sorted(message)) if len(message) > 2 or calls else (message.get("role"), kind)


def can_be_rendered(messages: object) -> bool:
    """True for a list of messages without faults that other rules report."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, dict)
            and message.get("role") in _ROLES
            and isinstance(message.get("content"), str | list | None)
            and all(isinstance(part, dict) for part in message.get("content") or () if type(part) is not str)
            for message in messages
        )
    )


def _sources(folder: Path, configured: object) -> dict[str, str]:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8", errors="replace")}
    if isinstance(configured, str):
        return {"default": configured}
    named = [item for item in configured if isinstance(item, dict)] if isinstance(configured, list) else []
    return {str(item["name"]): str(item["template"]) for item in named if {"name", "template"} <= item.keys()}


def _read_json(path: Path) -> dict[str, Any]:
    import orjson

    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _token_text(value: object) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _values(value: object) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []
