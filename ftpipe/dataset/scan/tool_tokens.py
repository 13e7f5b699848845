"""Counts the tokens of tool definitions, and says whether the count is only a lower bound.

OpenAI documents the count of names, types, descriptions, properties and enums; nested properties are counted like
those at the top. Everything else in a schema reaches the model as well, in a form that is not documented. Local
references are counted as if they were written out, and the alternatives of ``anyOf``, ``oneOf`` and ``allOf`` by their
types and texts; the result is marked as a lower bound.
Source: OpenAI cookbook ``How_to_count_tokens_with_tiktoken`` (equal to the API on gpt-4o in a published check).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftpipe.dataset.json_line import Json

TOOLS_END = 12
PER_FUNCTION = {"o200k_base": 7, "cl100k_base": 10}
PER_KEY = 3
PER_ENUM_ITEM = 3
MAX_SCHEMA_DEPTH = 16
MAX_SCHEMA_NODES = 1_000
"""Parts of one schema that are counted; references can multiply them without end."""
_FUNCTION_KEYWORDS = frozenset({"name", "description", "parameters", "strict"})
_COUNTED_KEYWORDS = frozenset(
    {"type", "description", "properties", "required", "enum", "items", "additionalProperties", "$defs", "definitions"}
)
"""Keywords of a schema that the documented formula counts, or that cost nothing by themselves."""
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")


def tool_tokens(tools: Json, count: Callable[[str], int], per_function: int) -> tuple[int, bool]:
    """Tokens of tool definitions, old and new style, and whether there may be more.

    Args:
        tools: The definitions; malformed ones count 0.
        count: Tokens of a text.
        per_function: A value of ``PER_FUNCTION``.
    """
    functions = [tool.get("function", tool) for tool in tools if type(tool) is dict] if type(tools) is list else []
    total, is_lower_bound = 0, False
    for function in functions:
        if type(function) is not dict:
            continue
        total += per_function + count(f"{_text(function.get('name'))}:{_without_period(function.get('description'))}")
        parameters = SchemaCounter(function.get("parameters"), count)
        total += parameters.total
        is_lower_bound |= parameters.is_lower_bound or not function.keys() <= _FUNCTION_KEYWORDS
    return (total + TOOLS_END if functions else 0), is_lower_bound


class SchemaCounter:
    """The tokens of one schema.

    Args:
        root: The schema of a function's parameters; ``None`` if it has none.
        count: Tokens of a text.
    """

    def __init__(self, root: Json, count: Callable[[str], int]) -> None:
        self._root, self._count = root, count
        self._nodes = 0
        self.is_lower_bound = False
        schema, references = self._resolve(root, ())
        self.total = self._alternatives(schema, 0, references) + self._properties(schema, 0, references)

    def _properties(self, schema: Json, depth: int, references: tuple[str, ...]) -> int:
        """Tokens of the properties of an object."""
        schema, references = self._resolve(schema, references)
        if type(schema) is not dict:
            return 0
        self._nodes += 1
        self._mark_uncounted(schema)
        properties = schema.get("properties")
        if type(properties) is not dict or not properties:
            return 0
        if depth > MAX_SCHEMA_DEPTH or self._nodes > MAX_SCHEMA_NODES:
            self.is_lower_bound = True
            return 0
        total = PER_KEY
        for name, definition in properties.items():
            total += self._property(name, definition, depth, references)
        return total

    def _property(self, name: str, definition: Json, depth: int, references: tuple[str, ...]) -> int:
        definition, references = self._resolve(definition, references)
        if type(definition) is not dict:
            return 0
        text = f"{name}:{_type_text(definition)}:{_without_period(definition.get('description'))}"
        total = PER_KEY + self._count(text) + self._choices(definition)
        total += self._alternatives(definition, depth, references)
        total += self._properties(definition, depth + 1, references)
        return total + self._items(definition.get("items"), depth, references)

    def _items(self, items: Json, depth: int, references: tuple[str, ...]) -> int:
        """Tokens of the items of an array; the formula counts their properties only."""
        items, references = self._resolve(items, references)
        if type(items) is not dict:
            return 0
        total = self._properties(items, depth + 1, references) + self._alternatives(items, depth, references)
        if "description" in items or "enum" in items:
            self.is_lower_bound = True
            total += self._count(f"{_type_text(items)}:{_without_period(items.get('description'))}")
            total += self._choices(items)
        return total

    def _choices(self, definition: dict[str, Any]) -> int:
        choices = definition.get("enum")
        if type(choices) is not list:
            return 0
        texts = (choice if type(choice) is str else str(choice) for choice in choices)
        return sum(PER_ENUM_ITEM + self._count(text) for text in texts) - PER_ENUM_ITEM

    def _alternatives(self, schema: Json, depth: int, references: tuple[str, ...]) -> int:
        """Tokens of the schemas in ``anyOf``, ``oneOf`` and ``allOf``."""
        total = 0
        for keyword in _ALTERNATIVES:
            branches = schema.get(keyword) if type(schema) is dict else None
            for branch in branches if type(branches) is list else ():
                self.is_lower_bound = True
                if depth > MAX_SCHEMA_DEPTH or self._nodes > MAX_SCHEMA_NODES:
                    return total
                inner, seen = self._resolve(branch, references)
                if type(inner) is dict:
                    self._nodes += 1
                    total += self._count(f"{_type_text(inner)}:{_without_period(inner.get('description'))}")
                    total += self._choices(inner) + self._alternatives(inner, depth + 1, seen)
                    total += self._properties(inner, depth + 1, seen) + self._items(inner.get("items"), depth + 1, seen)
        return total

    def _resolve(self, schema: Json, references: tuple[str, ...]) -> tuple[Json, tuple[str, ...]]:
        """The schema with its local reference replaced, and the references on the way to it."""
        while type(schema) is dict and "$ref" in schema:
            self.is_lower_bound = True
            reference = schema["$ref"]
            if type(reference) is not str or reference in references or len(references) > MAX_SCHEMA_DEPTH:
                return None, references
            target = _find(self._root, reference)
            if type(target) is not dict:
                return None, references
            references = (*references, reference)
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        return schema, references

    def _mark_uncounted(self, schema: dict[str, Any]) -> None:
        """Mark the count as a lower bound if the schema has parts that are not counted."""
        if not schema.keys() <= _COUNTED_KEYWORDS or type(schema.get("additionalProperties", False)) is not bool:
            self.is_lower_bound = True


def _find(root: Json, reference: str) -> Json:
    """What a local JSON pointer such as ``#/$defs/Guest`` names; ``None`` for everything else."""
    if not reference.startswith("#"):
        return None
    value = root
    for part in filter(None, reference[1:].split("/")):
        key = part.replace("~1", "/").replace("~0", "~")
        value = value.get(key) if type(value) is dict else None
    return value


def _type_text(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "")
    return " | ".join(map(str, kind)) if type(kind) is list else str(kind)


def _text(value: Json) -> str:
    return value if type(value) is str else ""


def _without_period(text: Json) -> str:
    return text.removesuffix(".") if type(text) is str else ""
