"""Counts the tokens of a record: its texts, the fixed tokens around them, and which of them are trained.

Per message 3 tokens plus those of every value (role, content, name, tool call id, refusal, and of each call the
function's name and arguments), 1 more if there is a name, and 3 per conversation.
Source: OpenAI cookbook ``How_to_count_tokens_with_tiktoken``, 2026-11-24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.image_tokens import image_tokens
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord

if TYPE_CHECKING:
    from ftpipe.tokenization import Counter

PER_MESSAGE = 3
PER_CONVERSATION = 3
PER_NAME = 1
TOOLS_END = 12
PER_FUNCTION = {"o200k_base": 7, "cl100k_base": 10}
PER_KEY = 3
PER_ENUM_ITEM = 3
MAX_CACHED_TEXTS = 4096


class TokenCountRequest:
    """The texts of one record whose tokens are to be counted, and the tokens that are known already."""

    __slots__ = ("fixed", "images", "repeated", "texts", "trained")

    def __init__(self) -> None:
        self.fixed = 0
        """Tokens that are known without a tokenizer."""
        self.texts: list[str] = []
        """Texts that are probably unique."""
        self.trained: list[bool] = []
        """For each text, whether the loss runs over it."""
        self.repeated: list[str] = []
        """Texts that many records have (roles, system prompts), never trained; their counts are cached."""
        self.images = 0


def collect_countable_texts(record: DatasetRecord, model: str) -> TokenCountRequest:
    """Collect the texts of a record that count towards its tokens; malformed parts count 0."""
    request = TokenCountRequest()
    for list_path, messages in record.lists:
        if type(messages) is not list:
            continue
        if list_path.endswith("messages"):
            request.fixed += PER_CONVERSATION
        is_trained = record.kind != "rft" and (record.kind != "dpo" or not list_path.endswith("messages"))
        for message in messages:
            if type(message) is dict:
                _add_message(request, message, is_trained, model)
    return request


def _add_message(request: TokenCountRequest, message: dict[str, Any], is_trained: bool, model: str) -> None:
    request.fixed += PER_MESSAGE
    role = message.get("role")
    trained = is_trained and role == "assistant" and message.get("weight", 1) != 0
    for key, value in message.items():
        if type(value) is str:
            if key == "content":
                if role == "system":
                    request.repeated.append(value)
                else:
                    request.texts.append(value)
                    request.trained.append(trained)
            elif key == "role":
                request.repeated.append(value)
            else:
                request.texts.append(value)
                request.trained.append(trained and key == "refusal")
        elif key == "content" and type(value) is list:
            _add_parts(request, value, trained, model)
        elif key in ("tool_calls", "function_call"):
            _add_calls(request, value, trained)
    if "name" in message:
        request.fixed += PER_NAME


def _add_parts(request: TokenCountRequest, parts: list[Any], trained: bool, model: str) -> None:
    for part in parts:
        if type(part) is not dict:
            continue
        if type(part.get("text")) is str:
            request.texts.append(part["text"])
            request.trained.append(trained)
        elif "image_url" in part:
            request.fixed += image_tokens(part["image_url"], model)
            request.images += 1


def _add_calls(request: TokenCountRequest, calls: Json, trained: bool) -> None:
    for call in calls if type(calls) is list else [{"function": calls}]:
        function = call.get("function") if type(call) is dict else None
        if type(function) is dict:
            for value in (function.get("name"), function.get("arguments")):
                if type(value) is str:
                    request.texts.append(value)
                    request.trained.append(trained)


class RecordTokenCounter:
    """Counts the tokens of many records at once, with a cache for texts that recur."""

    def __init__(self, counter: Counter, encoding: str) -> None:
        self._counter = counter
        self._encoding = encoding
        self._cache: dict[str, int] = {}
        self._tools: dict[bytes, int] = {}

    def count(self, requests: list[tuple[TokenCountRequest, Any]]) -> Iterator[tuple[int, int]]:
        """All tokens and trained tokens of each record.

        Args:
            requests: One per record, with the record's tool definitions, ``None`` if it has none.
        """
        counts = iter(self._counter.count([text for request, _ in requests for text in request.texts]))
        for request, tools in requests:
            total = request.fixed + sum(map(self.count_cached, request.repeated))
            if tools:
                total += self.count_tools(tools)
            trained = 0
            for is_trained in request.trained:
                tokens = next(counts)
                total += tokens
                trained += tokens if is_trained else 0
            yield total, trained

    def count_plain(
        self, dialogues: list[list[dict[str, str]]], *, is_undisputed: bool = False
    ) -> Iterator[tuple[int, int]]:
        """The same for dialogues of messages that have a role and a text and nothing else.

        Args:
            dialogues: The messages of each.
            is_undisputed: It is known that tokenizers agree on all characters.
        """
        count_cached = self.count_cached
        per_role = (
            {role: PER_MESSAGE + count_cached(role) for role in ("system", "user", "assistant")} if dialogues else {}
        )
        texts = [m["content"] for d in dialogues for m in d if m["role"] != "system"]
        counts = iter(self._counter.count_undisputed(texts) if is_undisputed else self._counter.count(texts))
        for dialogue in dialogues:
            total, trained = PER_CONVERSATION, 0
            for message in dialogue:
                role = message["role"]
                total += per_role[role]
                if role == "system":
                    total += count_cached(message["content"])
                else:
                    tokens = next(counts)
                    total += tokens
                    trained += tokens if role == "assistant" else 0
            yield total, trained

    def count_cached(self, text: str) -> int:
        """Tokens of a text that is likely to recur."""
        tokens = self._cache.get(text)
        if tokens is None:
            if len(self._cache) >= MAX_CACHED_TEXTS:
                self._cache.clear()
            tokens = self._cache[text] = self._counter.count([text])[0]
        return tokens

    def count_tools(self, tools: Json) -> int:
        """Tokens of a list of tool definitions, cached by content."""
        key = canonical_json(tools)
        tokens = self._tools.get(key)
        if tokens is None:
            if len(self._tools) >= MAX_CACHED_TEXTS:
                self._tools.clear()
            tokens = self._tools[key] = tool_tokens(tools, self.count_cached, PER_FUNCTION[self._encoding])
        return tokens


def tool_tokens(tools: Json, count: Callable[[str], int], per_function: int) -> int:
    """Tokens of tool definitions by the newer cookbook formula.

    Nested properties are counted like top-level ones; the formula does not say.
    Source: OpenAI cookbook ``How_to_count_tokens_with_tiktoken`` (equal to the API on gpt-4o in a published check).
    """
    functions = [tool.get("function", tool) for tool in tools if type(tool) is dict] if type(tools) is list else []
    total = 0
    for function in functions:
        if type(function) is not dict:
            continue
        total += per_function + count(f"{function.get('name', '')}:{_without_period(function.get('description'))}")
        total += _property_tokens(function.get("parameters"), count, 0)
    return total + TOOLS_END if functions else 0


def _property_tokens(schema: Json, count: Callable[[str], int], depth: int) -> int:
    properties = schema.get("properties") if type(schema) is dict else None
    if type(properties) is not dict or not properties or depth > 16:
        return 0
    total = PER_KEY
    for name, definition in properties.items():
        if type(definition) is not dict:
            continue
        total += PER_KEY + count(
            f"{name}:{definition.get('type', '')}:{_without_period(definition.get('description'))}"
        )
        choices = definition.get("enum")
        if type(choices) is list:
            total -= PER_ENUM_ITEM
            total += sum(PER_ENUM_ITEM + count(choice if type(choice) is str else str(choice)) for choice in choices)
        for nested in (definition, definition.get("items")):
            total += _property_tokens(nested, count, depth + 1)
    return total


def _without_period(text: Json) -> str:
    return text.removesuffix(".") if type(text) is str else ""
