"""Which tokens a record has: its texts, the fixed tokens around them, and which of them are trained.

Per message 3 tokens plus those of every value (role, content, name, tool call id, refusal, and of each call the
function's name and arguments), 1 more where there is a name, and 3 per conversation.
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
MEMO_TEXTS = 4096


class TokenCountRequest:
    """The texts of one record that are still to be counted, and what is already known."""

    __slots__ = ("fixed", "images", "repeated", "texts", "trained")

    def __init__(self) -> None:
        self.fixed = 0
        """Tokens that need no tokenizer."""
        self.texts: list[str] = []
        """Texts that occur once."""
        self.trained: list[bool] = []
        """For each text, whether the loss runs over it."""
        self.repeated: list[str] = []
        """Texts that stand in many records (roles, system prompts, tools), never trained."""
        self.images = 0


def collect_countable_texts(row: DatasetRecord, model: str) -> TokenCountRequest:
    """Make the bill of a record; broken parts count as nothing."""
    bill = TokenCountRequest()
    for base, messages in row.lists:
        if type(messages) is not list:
            continue
        if base.endswith("messages"):
            bill.fixed += PER_CONVERSATION
        learns = row.kind != "rft" and (row.kind != "dpo" or not base.endswith("messages"))
        for message in messages:
            if type(message) is dict:
                _bill_message(bill, message, learns, model)
    return bill


def _bill_message(bill: TokenCountRequest, message: dict[str, Any], learns: bool, model: str) -> None:
    bill.fixed += PER_MESSAGE
    role = message.get("role")
    trained = learns and role == "assistant" and message.get("weight", 1) != 0
    for key, value in message.items():
        if type(value) is str:
            if key == "content":
                if role == "system":
                    bill.repeated.append(value)
                else:
                    bill.texts.append(value)
                    bill.trained.append(trained)
            elif key == "role":
                bill.repeated.append(value)
            else:
                bill.texts.append(value)
                bill.trained.append(trained and key == "refusal")
        elif key == "content" and type(value) is list:
            _bill_parts(bill, value, trained, model)
        elif key in ("tool_calls", "function_call"):
            _bill_calls(bill, value, trained)
    if "name" in message:
        bill.fixed += PER_NAME


def _bill_parts(bill: TokenCountRequest, parts: list[Any], trained: bool, model: str) -> None:
    for part in parts:
        if type(part) is not dict:
            continue
        if type(part.get("text")) is str:
            bill.texts.append(part["text"])
            bill.trained.append(trained)
        elif "image_url" in part:
            bill.fixed += image_tokens(part["image_url"], model)
            bill.images += 1


def _bill_calls(bill: TokenCountRequest, calls: Json, trained: bool) -> None:
    for call in calls if type(calls) is list else [{"function": calls}]:
        function = call.get("function") if type(call) is dict else None
        if type(function) is dict:
            for value in (function.get("name"), function.get("arguments")):
                if type(value) is str:
                    bill.texts.append(value)
                    bill.trained.append(trained)


class RecordTokenCounter:
    """Counts bills, many at once, with a memory for what repeats."""

    def __init__(self, counter: Counter, encoding: str) -> None:
        self._counter = counter
        self._encoding = encoding
        self._memo: dict[str, int] = {}
        self._tools: dict[bytes, int] = {}

    def count(self, bills: list[tuple[TokenCountRequest, Any]]) -> Iterator[tuple[int, int]]:
        """All tokens and trained tokens of each record.

        Args:
            bills: One per record, with the record's tool definitions, ``None`` where it has none.
        """
        counts = iter(self._counter.count([text for bill, _ in bills for text in bill.texts]))
        for bill, tools in bills:
            total = bill.fixed + sum(map(self.count_cached, bill.repeated))
            if tools:
                total += self.of_tools(tools)
            trained = 0
            for is_trained in bill.trained:
                tokens = next(counts)
                total += tokens
                trained += tokens if is_trained else 0
            yield total, trained

    def count_plain(
        self, dialogues: list[list[dict[str, str]]], *, undisputed: bool = False
    ) -> Iterator[tuple[int, int]]:
        """The same for dialogues of messages that have a role and a text and nothing else.

        Args:
            dialogues: The messages of each.
            undisputed: It is known that tokenizers agree on all characters.
        """
        one = self.count_cached
        around = {role: PER_MESSAGE + one(role) for role in ("system", "user", "assistant")} if dialogues else {}
        texts = [m["content"] for d in dialogues for m in d if m["role"] != "system"]
        counts = iter(self._counter.count_undisputed(texts) if undisputed else self._counter.count(texts))
        for dialogue in dialogues:
            total, trained = PER_CONVERSATION, 0
            for message in dialogue:
                role = message["role"]
                total += around[role]
                if role == "system":
                    total += one(message["content"])
                else:
                    tokens = next(counts)
                    total += tokens
                    trained += tokens if role == "assistant" else 0
            yield total, trained

    def count_cached(self, text: str) -> int:
        """Tokens of a text that is likely to come again."""
        known = self._memo.get(text)
        if known is None:
            if len(self._memo) >= MEMO_TEXTS:
                self._memo.clear()
            known = self._memo[text] = self._counter.count([text])[0]
        return known

    def of_tools(self, tools: Json) -> int:
        """Tokens of a list of tool definitions, remembered by content."""
        key = canonical_json(tools)
        known = self._tools.get(key)
        if known is None:
            if len(self._tools) >= MEMO_TEXTS:
                self._tools.clear()
            known = self._tools[key] = tool_tokens(tools, self.count_cached, PER_FUNCTION[self._encoding])
        return known


def tool_tokens(tools: Json, count: Callable[[str], int], per_function: int) -> int:
    """Tokens of tool definitions by the newer cookbook formula.

    Nested properties are counted like top-level ones, which the formula leaves open.
    Source: OpenAI cookbook ``How_to_count_tokens_with_tiktoken`` (equal to the API on gpt-4o in a published check).
    """
    functions = [tool.get("function", tool) for tool in tools if type(tool) is dict] if type(tools) is list else []
    total = 0
    for function in functions:
        if type(function) is not dict:
            continue
        total += per_function + count(f"{function.get('name', '')}:{_undotted(function.get('description'))}")
        total += _property_tokens(function.get("parameters"), count, 0)
    return total + TOOLS_END if functions else 0


def _property_tokens(schema: Json, count: Callable[[str], int], depth: int) -> int:
    properties = schema.get("properties") if type(schema) is dict else None
    if type(properties) is not dict or not properties or depth > 16:
        return 0
    total = PER_KEY
    for name, facts in properties.items():
        if type(facts) is not dict:
            continue
        total += PER_KEY + count(f"{name}:{facts.get('type', '')}:{_undotted(facts.get('description'))}")
        choices = facts.get("enum")
        if type(choices) is list:
            total -= PER_ENUM_ITEM
            total += sum(PER_ENUM_ITEM + count(choice if type(choice) is str else str(choice)) for choice in choices)
        total += _property_tokens(facts, count, depth + 1) + _property_tokens(facts.get("items"), count, depth + 1)
    return total


def _undotted(text: Json) -> str:
    return text.removesuffix(".") if type(text) is str else ""
