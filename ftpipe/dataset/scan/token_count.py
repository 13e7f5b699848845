"""Counts the tokens of a record: its texts, the fixed tokens around them, and which of them are trained.

Per message 3 tokens plus those of every value (role, content, name, tool call id, refusal, and of each call the
function's name and arguments), 1 more if there is a name, and 3 per conversation.
Source: OpenAI cookbook ``How_to_count_tokens_with_tiktoken``, 2026-11-24.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.image_tokens import image_tokens
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.scan.tool_tokens import PER_FUNCTION, tool_tokens

if TYPE_CHECKING:
    from ftpipe.tokenization import Counter

PER_MESSAGE = 3
PER_CONVERSATION = 3
PER_NAME = 1
MAX_CACHED_TEXTS = 4096


class TokenCountRequest:
    """The texts of one record whose tokens are to be counted, and the tokens that are known already."""

    __slots__ = ("fixed", "images", "is_lower_bound", "repeated", "texts", "tools", "trained")

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
        self.tools: list[Any] = []
        """Tool definitions, old and new style."""
        self.is_lower_bound = False
        """The record has parts whose tokens are not known, such as audio."""


def collect_countable_texts(record: DatasetRecord, model: str) -> TokenCountRequest:
    """Collect the texts of a record that count towards its tokens; malformed parts count 0."""
    request = TokenCountRequest()
    _, source = record.tool_source()
    for key in ("tools", "functions"):
        listed = source.get(key)
        request.tools += listed if type(listed) is list else ()
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
        elif key == "audio" and value is not None:
            request.is_lower_bound = True
    if "name" in message:
        request.fixed += PER_NAME


def _add_parts(request: TokenCountRequest, parts: list[Any], trained: bool, model: str) -> None:
    for part in parts:
        if type(part) is not dict:
            continue
        if type(part.get("text")) is str:
            request.texts.append(part["text"])
            request.trained.append(trained)
        elif type(part.get("refusal")) is str:
            request.texts.append(part["refusal"])
            request.trained.append(trained)
        elif "image_url" in part:
            request.fixed += image_tokens(part["image_url"], model)
            request.images += 1
        else:
            request.is_lower_bound = True


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
        self._tools: dict[bytes, tuple[int, bool]] = {}

    def count(self, requests: list[TokenCountRequest]) -> Iterator[tuple[int, int, bool]]:
        """All tokens and trained tokens of each record, and whether there may be more of them."""
        counts = iter(self._counter.count([text for request in requests for text in request.texts]))
        for request in requests:
            total = request.fixed + sum(map(self.count_cached, request.repeated))
            is_lower_bound = request.is_lower_bound
            if request.tools:
                tokens, are_more = self.count_tools(request.tools)
                total, is_lower_bound = total + tokens, is_lower_bound or are_more
            trained = 0
            for is_trained in request.trained:
                tokens = next(counts)
                total += tokens
                trained += tokens if is_trained else 0
            yield total, trained, is_lower_bound

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

    def count_tools(self, tools: Json) -> tuple[int, bool]:
        """Tokens of a list of tool definitions, and whether there may be more; cached by content."""
        key = canonical_json(tools)
        result = self._tools.get(key)
        if result is None:
            if len(self._tools) >= MAX_CACHED_TEXTS:
                self._tools.clear()
            result = self._tools[key] = tool_tokens(tools, self.count_cached, PER_FUNCTION[self._encoding])
        return result
