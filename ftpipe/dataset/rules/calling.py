"""Tool definitions and calls of a record, with their places, and JSON Schema checks that remember what they saw."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

from ftpipe.dataset.jsonvalue import Json
from ftpipe.dataset.rows import DatasetRecord


def definitions(row: DatasetRecord) -> Iterator[tuple[str, Json]]:
    """Path and function object of every tool definition, old and new style; the object may be anything."""
    source, base = (row.record.get("input"), "input.") if row.kind == "dpo" else (row.record, "")
    if type(source) is not dict:
        return
    for key in ("tools", "functions"):
        listed = source.get(key)
        for index, tool in enumerate(listed if type(listed) is list else ()):
            inner = key == "tools" and type(tool) is dict
            where = f"{base}{key}[{index}]"
            yield (f"{where}.function", tool.get("function")) if inner else (where, tool)


def calls(row: DatasetRecord) -> Iterator[tuple[str, str, int, Json]]:
    """Path of the call, path of its message list, index of the message, and the call, for every tool call."""
    for base, index, message in row.messages():
        listed = message.get("tool_calls")
        for place, call in enumerate(listed if type(listed) is list else ()):
            yield f"{base}[{index}].tool_calls[{place}]", base, index, call


def functions_called(row: DatasetRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and function object of every call, old and new style."""
    for path, _, _, call in calls(row):
        if type(call) is dict and type(call.get("function")) is dict:
            yield f"{path}.function", call["function"]
    for base, index, message in row.messages():
        if type(message.get("function_call")) is dict:
            yield f"{base}[{index}].function_call", message["function_call"]


@lru_cache(maxsize=512)
def schema_fault(schema: bytes) -> str:
    """What is wrong with a JSON Schema, empty for nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(orjson.loads(schema))
    except SchemaError as exc:
        return f"{'.'.join(map(str, exc.absolute_path)) or 'schema'}: {exc.message}"
    return ""


@lru_cache(maxsize=512)
def validator_of(schema: bytes) -> Any:  # noqa: ANN401  # jsonschema's validators have no common public type
    """A validator for a schema that has no fault."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(orjson.loads(schema))


def read_arguments(text: object) -> Json:
    """The arguments of a call, parsed; ``None`` for what is no JSON."""
    try:
        return orjson.loads(text) if type(text) is str else None
    except orjson.JSONDecodeError:
        return None
