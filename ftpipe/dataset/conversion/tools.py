"""Tool definitions and tool calls of other formats, written as OpenAI writes them."""

from __future__ import annotations

import json
from typing import Any

from ftpipe.dataset.conversion.row import Row, SkipRow, kind_of
from ftpipe.dataset.conversion.structure import parse_structure, require_structure

MAX_SCHEMA_DEPTH = 64
_WRAPPERS = ("function", "toolSpec", "functionDeclarations", "function_declarations")
_SCHEMA_KEYS = ("parameters", "inputschema", "parametersjsonschema", "parameterdefinitions")


def read_tools(row: Row, path: str, value: object) -> None:
    """Add the tool definitions of a value to the row; an empty text stands for none.

    Raises:
        SkipRow: It is not a list of definitions.
    """
    if isinstance(value, str) and not value.strip():
        return
    value = require_structure(path, value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise SkipRow(path, f"it is {kind_of(value)}, not a list of tools")
    tools: list[Any] = []
    for index, item in enumerate(value):
        tools += _definitions(row, f"{path}[{index}]", require_structure(f"{path}[{index}]", item))
    row.tools = [*(row.tools or []), *tools]


def _definitions(row: Row, path: str, tool: object) -> list[dict[str, Any]]:
    if not isinstance(tool, dict):
        raise SkipRow(path, f"it is {kind_of(tool)}, not a tool")
    inner = next((key for key in _WRAPPERS if isinstance(tool.get(key), dict | list)), None)
    if inner is None:
        return [{"type": "function", "function": _function(row, path, tool)}]
    fields = row.open(tool, path)
    fields.get("type")
    value, inner_path = fields.use(inner), f"{path}.{inner}"
    if isinstance(value, dict):
        return [{"type": "function", "function": _function(row, inner_path, value)}]
    listed = [_definitions(row, f"{inner_path}[{index}]", each) for index, each in enumerate(value)]
    return [definition for definitions in listed for definition in definitions]


def _function(row: Row, path: str, function: dict[str, Any]) -> dict[str, Any]:
    """A function with its parameters as JSON Schema; what OpenAI has no key for is ignored by name."""
    fields = row.open(function, path)
    fields.get("type")
    name = fields.get("name")
    if not isinstance(name, str):
        raise SkipRow(path, "the tool has no name")
    result: dict[str, Any] = {"name": name}
    if isinstance(description := fields.get("description"), str):
        result["description"] = description
    for key in fields.filled("strict"):
        result["strict"] = fields.use(key)
    for key in fields.filled(*_SCHEMA_KEYS)[:1]:
        schema = require_structure(fields.path_of(key), fields.use(key))
        schema = schema["json"] if isinstance(schema, dict) and isinstance(schema.get("json"), dict) else schema
        if not isinstance(schema, dict) or not ({"type", "properties", "$ref", "anyOf"} & schema.keys()):
            raise SkipRow(fields.path_of(key), "it is not a JSON schema")
        result["parameters"] = _lower_types(schema)
    if "parameters" not in result and "parameters" in function:
        fields.use("parameters")
        result["parameters"] = {"type": "object", "properties": {}}
    return result


def _lower_types(schema: Any, depth: int = 0) -> Any:  # noqa: ANN401  # any JSON value
    """A schema with the types in lower case, which Gemini writes in upper case."""
    if depth > MAX_SCHEMA_DEPTH:
        return schema
    if isinstance(schema, list):
        return [_lower_types(item, depth + 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.lower()
        if key == "type" and isinstance(value, str) and value.isupper()
        else _lower_types(value, depth + 1)
        for key, value in schema.items()
    }


def read_call(row: Row, path: str, call: object, number: int) -> dict[str, Any]:
    """A tool call as OpenAI writes it; one without an id gets ``call_`` and the number.

    Raises:
        SkipRow: It has no name, or its arguments are not an object.
    """
    call = require_structure(path, call)
    if not isinstance(call, dict):
        raise SkipRow(path, f"the call is {kind_of(call)}, not an object")
    fields = row.open(call, path)
    fields.get("type")
    call_id = fields.get("callid", "id", "tooluseid", "toolcallid")
    inner = fields.get("function", "tooluse", "functioncall")
    if isinstance(inner, dict):
        fields = row.open(inner, f"{path}.function")
        call_id = call_id or fields.get("id", "tooluseid")
    name = inner if isinstance(inner, str) else fields.get("name", "toolname")
    if not isinstance(name, str):
        raise SkipRow(path, "the call has no name")
    key = fields.find("arguments", "args", "input", "parameters")
    arguments = _arguments(fields.path_of(key), fields.use(key)) if key else "{}"
    text_id = call_id if isinstance(call_id, str) else f"call_{number}"
    return {"id": text_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(path: str, value: object) -> str:
    """The arguments as the text of a JSON object; one that is such a text already stays as it is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    parsed = parse_structure(value) if isinstance(value, str) else value
    if isinstance(value, str) and parsed is None and value.lstrip()[:1] == '"':
        # JSON that was encoded twice: a text that holds the text of the object
        inner = parse_structure(f"[{value}]")
        return _arguments(path, inner[0] if isinstance(inner, list) else [])
    if not isinstance(parsed, dict):
        raise SkipRow(path, "the arguments are not a JSON object")
    if isinstance(value, str) and _is_json(value):
        return value
    return json.dumps(parsed, ensure_ascii=False, default=str)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
