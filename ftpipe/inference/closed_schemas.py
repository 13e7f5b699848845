"""Close the objects of JSON schemas: members that a schema does not name are not written.

By JSON Schema an object can have any further members, and a small model adds them without an end. An object stays open
if its schema says so with ``additionalProperties``, or names no member at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

KEYWORDS_WITH_VALUES = frozenset({"const", "enum", "default", "examples", "required"})
"""What is below them is no schema."""
KEYWORDS_WITH_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Below them is a schema for each name."""
MAX_ADDED_NAMES = 10_000
"""Names that are added to the objects of one schema; further ones stay open."""

Schema: TypeAlias = Mapping[str, Any]

_LISTS_IN_PLACE = ("allOf", "anyOf", "oneOf")
_OPEN = ("additionalProperties", "unevaluatedProperties", "patternProperties")


def close_objects(schema: Schema) -> dict[str, Any]:
    """A schema whose objects have no members but those that it names.

    Parts of one object, as in ``allOf``, are closed together.
    """
    return _Closer(schema).close(schema, "#", is_part=False)


def close_parameters(schema: Schema | None) -> dict[str, Any]:
    """The same for the parameters of a function: if they name nothing, there are none."""
    closed = close_objects(schema or {})
    is_empty = closed.keys().isdisjoint(("properties", "$ref", *_LISTS_IN_PLACE, *_OPEN))
    return {**closed, "type": "object", "properties": {}, "additionalProperties": False} if is_empty else closed


class _UnknownMembersError(Exception):
    """It cannot be said which members an object has."""


class _Closer:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._parts: set[str] = set()
        """References to schemas that describe a part of an object only."""
        self._added_names = 0
        for schema in _subschemas(root):
            self._find_parts(schema, is_part=False)

    def _find_parts(self, schema: Schema, *, is_part: bool) -> None:
        is_part = is_part or _is_merged(schema)
        for part in _parts_in_place(schema):
            self._find_parts(part, is_part=is_part)
        reference = schema.get("$ref")
        if is_part and isinstance(reference, str) and reference not in self._parts:
            self._parts.add(reference)
            target = self._resolve(reference)
            if target is not None:
                self._find_parts(target, is_part=True)

    def close(self, schema: Schema, path: str, *, is_part: bool) -> dict[str, Any]:
        """A schema at a path of the root with closed objects; it stays open itself if it is a part of another one."""
        is_part = is_part or path in self._parts
        has_parts = is_part or _is_merged(schema)
        closed: dict[str, Any] = {}
        for key, value in schema.items():
            where = f"{path}/{_escape(key)}"
            if key in KEYWORDS_WITH_VALUES or key in ("not", "if", "then", "else"):
                closed[key] = value
            elif key in KEYWORDS_WITH_NAMES and isinstance(value, Mapping):
                closed[key] = {name: self._close(part, f"{where}/{_escape(name)}") for name, part in value.items()}
            elif isinstance(value, list):
                are_parts = key in _LISTS_IN_PLACE and has_parts
                closed[key] = [
                    self._close(part, f"{where}/{index}", is_part=are_parts) for index, part in enumerate(value)
                ]
            else:
                closed[key] = self._close(value, where)
        is_referred_part = schema.get("$ref") in self._parts
        if not is_part and ("properties" in schema or has_parts or is_referred_part):
            self._close_object(schema, closed)
        return closed

    def _close(self, value: Any, path: str, *, is_part: bool = False) -> Any:  # noqa: ANN401  # JSON
        # a part with an id is the root of its own references
        if isinstance(value, Mapping) and "$id" not in value:
            return self.close(value, path, is_part=is_part)
        return value

    def _close_object(self, schema: Schema, closed: dict[str, Any]) -> None:
        try:
            names = self._names(schema, frozenset())
        except _UnknownMembersError:
            return
        added = names - closed.get("properties", {}).keys()
        self._added_names += len(added)
        if (not names and "properties" not in schema) or self._added_names > MAX_ADDED_NAMES:
            return
        closed["properties"] = {**closed.get("properties", {}), **{name: True for name in sorted(added)}}
        closed["additionalProperties"] = False

    def _names(self, schema: Schema, references: frozenset[str]) -> set[str]:
        """The members that an object can have by a schema and its parts."""
        if any(key in schema for key in _OPEN):
            raise _UnknownMembersError
        names = {*schema.get("properties", {}), *schema.get("required", ())}
        for part in _parts_in_place(schema):
            names |= self._names(part, references)
        reference = schema.get("$ref")
        if reference is not None and reference not in references:
            target = self._resolve(reference)
            if target is None:
                raise _UnknownMembersError
            names |= self._names(target, references | {reference})
        return names

    def _resolve(self, reference: object) -> Schema | None:
        """The schema that a JSON pointer refers to; ``None`` for other references."""
        if not isinstance(reference, str) or not reference.startswith("#") or reference[1:2] not in ("", "/"):
            return None
        value: Any = self._root
        for token in reference.split("/")[1:]:
            name = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, Mapping) and name in value:
                value = value[name]
            else:
                return None
        return value if isinstance(value, Mapping) else None


def _is_merged(schema: Schema) -> bool:
    """Whether a schema describes an object in several parts that belong together."""
    parts = len(_list(schema, "allOf"))
    return parts + sum(key in schema for key in ("properties", "anyOf", "oneOf", "$ref")) > 1


def _parts_in_place(schema: Schema) -> Iterator[Schema]:
    for key in _LISTS_IN_PLACE:
        yield from (part for part in _list(schema, key) if isinstance(part, Mapping))


def _list(schema: Schema, key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _subschemas(schema: Schema) -> Iterator[Schema]:
    """A schema and all that are in it."""
    pending: list[Any] = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, Mapping):
            yield value
            for key, part in value.items():
                if key in KEYWORDS_WITH_NAMES and isinstance(part, Mapping):
                    pending += part.values()
                elif key not in KEYWORDS_WITH_VALUES:
                    pending.append(part)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
