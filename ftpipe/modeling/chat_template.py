"""The chat template of a base model: read it from the model's folder and render conversations with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.modeling.chat_messages import ChatTemplateError, Message, to_template_messages
from ftpipe.modeling.control_tokens import ANSWER_TOKENS, TokenFinder, unused_mark
from ftpipe.modeling.types import Tokenizer

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_QUESTION, _ANSWER = "question", "answer"

Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template with the tokens that it can write.

    Attributes:
        sources: Name → source: ``default``, and ``tool_use`` if tools have a separate template. Can be empty.
        tokens: Names such as ``eos_token`` → text.
        special: Texts of the special tokens, which text never means.
        added: Texts of all tokens that the tokenizer looks for before it splits a text.
    """

    sources: Mapping[str, str]
    tokens: Mapping[str, str]
    special: frozenset[str]
    added: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """Read a model folder; a broken file counts as missing."""
        maps = [read_json(folder / name) or {} for name in ("special_tokens_map.json", "tokenizer_config.json")]
        config = {**maps[0], **maps[1]}
        tokens = {name: text for name in _NAMED_TOKENS if (text := _token_text(config.get(name)))}
        added = (read_json(folder / "tokenizer.json") or {}).get("added_tokens")
        listed = [*(added if isinstance(added, list) else ()), *_values(config.get("added_tokens_decoder"))]
        items = [item for item in listed if isinstance(item, dict) and isinstance(item.get("content"), str)]
        special = {*tokens.values(), *(item["content"] for item in items if item.get("special"))}
        words = frozenset(item["content"] for item in items)
        return cls(_sources(folder, config.get("chat_template")), tokens, frozenset(special - {""}), words)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template of a tokenizer of transformers."""
        configured = tokenizer.chat_template
        sources = {"default": configured} if isinstance(configured, str) else dict(configured or {})
        tokens = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        return cls(sources, tokens, frozenset(special), frozenset(token.content for token in added))

    @cached_property
    def special_finder(self) -> TokenFinder:
        """Finds special tokens."""
        return TokenFinder(self.special)

    @cached_property
    def generation_prompt(self) -> str:
        """The text between a question and its answer, at the end of which an answer starts; empty if it is not known.

        If the template has no generation prompt, it is what follows the question.
        """
        question = Conversation(self, [{"role": "user", "content": _QUESTION}])
        try:
            before, after = question.render(), question.render(add_generation_prompt=True)
        except ChatTemplateError:
            return ""
        if after.startswith(before) and len(after) > len(before):
            return after[len(before) :]
        return after.rpartition(_QUESTION)[2]

    @cached_property
    def answer_end(self) -> str:
        """The text behind an answer up to its end-of-turn token; empty if it is not known."""
        messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
        conversation = Conversation(self, [*messages, messages[0]])
        try:
            last, earlier = conversation.render(2), conversation.render()
        except ChatTemplateError:
            return ""
        pairs = zip(last.rpartition(_ANSWER)[2], earlier.rpartition(_ANSWER)[2], strict=False)
        common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return common[: max((end for _, end in self.special_finder.find(common)), default=0)]

    @cached_property
    def answer_start(self) -> str:
        """The blanks that the template puts between a prompt and an answer; they are no part of the answer."""
        messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
        conversation = Conversation(self, messages)
        try:
            prompt, text = conversation.render(1, add_generation_prompt=True), conversation.render()
        except ChatTemplateError:
            return ""
        start = text[len(prompt) :].partition(_ANSWER)[0] if text.startswith(prompt) else ""
        return "" if start.strip() else start

    @cached_property
    def _control_finders(self) -> tuple[TokenFinder, TokenFinder]:
        """Finders of what only the template can write: in answers, and in everything else.

        Not every tokenizer declares the tokens around a turn as special (DeepSeek does not), so added tokens in the
        template's source are among them.
        """
        sources = "\n".join(self.sources.values())
        written = {word for word in self.added if word.strip() and word in sources}
        words = self.special | written
        return TokenFinder(words - (ANSWER_TOKENS - self.special)), TokenFinder(words)

    def control_positions(self, text: str) -> frozenset[int]:
        """Where the control tokens of a rendered text begin; those that a content contains have a mark."""
        return frozenset(start for start, _ in self._control_finders[1].find(text))

    def mark_messages(self, messages: Sequence[Mapping[str, Any]], mark: str) -> list[dict[str, Any]]:
        """Messages with a mark in each control token that is in their texts."""
        in_answers, elsewhere = self._control_finders
        return [(in_answers if m.get("role") == "assistant" else elsewhere).mark(m, mark) for m in messages]

    def mark_value(self, value: Any, mark: str) -> Any:  # noqa: ANN401  # JSON
        """A JSON value, such as a list of tools, with a mark in each control token that is in its texts."""
        return self._control_finders[1].mark(value, mark)


class Conversation:
    """Messages and tools in the form that a template takes.

    Attributes:
        offset: Number of messages that were added before the first one, to list the tools.
        mark: The character in control tokens that the contents contain; see ``control_tokens``.
    """

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        tools: Tools = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Convert the messages of the API.

        Args:
            template: Renders them.
            messages: In the API's form.
            tools: In the API's form.
            variables: What the template can use besides, such as ``enable_thinking``; they replace nothing else.

        Raises:
            ChatTemplateError: There is no template, or a message has a part that is not text.
        """
        source = template.sources.get("tool_use" if tools and "tool_use" in template.sources else "default")
        if source is None:
            raise ChatTemplateError(
                "this base model has no chat template, so conversations cannot be rendered for it",
                "choose an instruct model, whose tokenizer has a template",
            )
        converted = to_template_messages(messages, tools, template.sources.get("default", source))
        self.offset = len(converted) - len(messages)
        self.mark = unused_mark([converted, list(tools or ()), variables or {}])
        self._source = source
        self._messages = template.mark_messages(converted, self.mark)
        self._variables = {
            **template.mark_value(variables or {}, self.mark),
            **template.tokens,
            "tools": template.mark_value(list(tools or ()), self.mark) or None,
            "documents": None,
        }

    def render(self, stop: int | None = None, *, add_generation_prompt: bool = False) -> str:
        """The text of all messages, or of those before index ``stop``.

        Raises:
            ChatTemplateError: The template rejects the conversation, or exceeds a limit.
        """
        from ftpipe.modeling.template_rendering import render_chat_template

        variables = {
            **self._variables,
            "messages": self._messages[:stop],
            "add_generation_prompt": add_generation_prompt,
        }
        return render_chat_template(self._source, variables)


def _sources(folder: Path, configured: object) -> dict[str, str]:
    file = folder / "chat_template.jinja"
    if file.is_file():
        others = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
        files = {**others, "default": file}
        return {name: path.read_text(encoding="utf-8", errors="replace") for name, path in files.items()}
    if isinstance(configured, str):
        return {"default": configured}
    named = [item for item in configured if isinstance(item, dict)] if isinstance(configured, list) else []
    return {str(item["name"]): str(item["template"]) for item in named if {"name", "template"} <= item.keys()}


def _token_text(value: object) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _values(value: object) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []
