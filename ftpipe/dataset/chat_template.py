"""Renders conversations with the chat template of a local base model, exactly like the trainer but without torch.

The environment is that of ``transformers``: a sandbox with the same filters, functions and whitespace rules.
Source: transformers 5, ``utils/chat_template_utils.py``, read 2026-11-24.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ftpipe.modeling.chat_messages import ChatTemplateError, Message, to_template_messages
from ftpipe.paths import models_dir

if TYPE_CHECKING:
    import jinja2

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
        from jinja2.exceptions import TemplateError

        source = self._sources.get("tool_use" if tools and "tool_use" in self._sources else "default")
        if source is None:
            raise ChatTemplateError("the base model has no chat template", "choose an instruct model")
        try:
            converted = to_template_messages(messages, tools, self._sources["default"])
            return compiled(source).render(
                messages=converted,
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
            )
        except (TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError) as exc:
            raise ChatTemplateError(str(exc) or type(exc).__name__) from exc

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


@lru_cache(maxsize=16)
def compiled(source: str) -> jinja2.Template:
    """The template in an environment like that of ``transformers``.

    Raises:
        TemplateSyntaxError: The source is not a valid template.
    """
    from jinja2 import Environment, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the trained part; only its contents are rendered here."""

        tags = {"generation"}  # noqa: RUF012  # required by jinja

        def parse(self, parser: Parser) -> nodes.Node:
            """Parse the block as if the tag were absent."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(
        value: object, ensure_ascii: bool = False, indent: int | None = None,
        separators: tuple[str, str] | None = None, sort_keys: bool = False,
    ) -> str:  # fmt: skip
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda pattern: datetime.now().astimezone().strftime(pattern),
    }
    return environment.from_string(source)
