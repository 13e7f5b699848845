"""FT3: tool definitions, tool calls and their results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.check_settings import Level
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import TOOLS
from ftpipe.dataset.rules.base import (
    MESSAGE_FORMATS,
    RuleGroup,
    Violation,
    describe_text,
    describe_value,
    escape_preview,
)
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.errors import FtpipeError

if TYPE_CHECKING:
    from ftpipe.json_schema import JsonSchema


def definitions(row: DatasetRecord) -> Iterator[tuple[str, Json]]:
    """Path and function object of every tool definition, old and new style; the object can be any JSON value."""
    base, source = row.tool_source()
    for key in ("tools", "functions"):
        listed = source.get(key)
        for index, tool in enumerate(listed if type(listed) is list else ()):
            inner = key == "tools" and type(tool) is dict
            path = f"{base}{key}[{index}]"
            yield (f"{path}.function", tool.get("function")) if inner else (path, tool)


def calls(row: DatasetRecord) -> Iterator[tuple[str, str, int, Json]]:
    """Path of the call, path of its message list, index of the message, and the call, for every tool call."""
    for base, index, message in row.messages():
        listed = message.get("tool_calls")
        for call_index, call in enumerate(listed if type(listed) is list else ()):
            yield f"{base}[{index}].tool_calls[{call_index}]", base, index, call


def called_functions(row: DatasetRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and function object of every call, old and new style."""
    for path, _, _, call in calls(row):
        if type(call) is dict and type(call.get("function")) is dict:
            yield f"{path}.function", call["function"]
    for base, index, message in row.messages():
        if type(message.get("function_call")) is dict:
            yield f"{base}[{index}].function_call", message["function_call"]


def compile_parameters(parameters: dict[str, Any]) -> JsonSchema | FtpipeError:
    """The schema of a tool's parameters, or why it cannot be used."""
    from ftpipe.json_schema import MAX_SCHEMA_DEPTH, InvalidSchemaError, is_deeper_than

    if is_deeper_than(parameters, MAX_SCHEMA_DEPTH):
        return InvalidSchemaError(f"it is nested deeper than {MAX_SCHEMA_DEPTH} levels")
    return _compile_text(canonical_json(parameters))


@lru_cache(maxsize=512)
def _compile_text(schema: bytes) -> JsonSchema | FtpipeError:
    from ftpipe.json_schema import InvalidSchemaError, JsonSchema, SchemaLimitError

    try:
        return JsonSchema(json.loads(schema))
    except (InvalidSchemaError, SchemaLimitError) as exc:
        return exc


NOT_JSON = object()
"""Stands for arguments that are not JSON."""


def parse_arguments(text: object) -> Json:
    """The parsed arguments of a call; ``NOT_JSON`` if they are not a string with JSON."""
    try:
        return orjson.loads(text) if type(text) is str else NOT_JSON
    except orjson.JSONDecodeError:
        return NOT_JSON


GROUP = RuleGroup("Tools")
rule = GROUP.rule

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@rule("FT301", "invalid-tool-schema", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS)
def invalid_tool_schema(row: DatasetRecord) -> Iterator[Violation]:
    """A tool definition has no name, or its parameters are not a valid JSON Schema that stands by itself.

    Why: The service reads the definitions before the first example. References to other documents are not fetched, and
        a schema may not refer to itself for the same value.
    Fix: Write {"type": "function", "function": {"name": …, "parameters": {"type": "object", "properties": {…}}}}.
    Source: OpenAI API description FunctionObject, 2026-08-21.
    """
    from ftpipe.json_schema import InvalidSchemaError, SchemaLimitError

    base, source = row.tool_source()
    for key in ("tools", "functions"):
        listed = source.get(key)
        if listed is not None and type(listed) is not list:
            hint = "Convert it: `ftpipe convert FILE`." if type(listed) is str else ""
            yield Violation(f"{base}{key}", f"{key} is {describe_value(listed)}, not a list.", hint=hint)
    for path, function in definitions(row):
        if type(function) is not dict:
            yield Violation(path, f"The definition is {describe_value(function)}, not an object with a function.")
            continue
        if "name" not in function:
            yield Violation(f"{path}.name", "The function has no name.")
        elif not function["name"]:
            yield Violation(f"{path}.name", f"The function's name is {describe_value(function['name'])}.")
        parameters = function.get("parameters")
        if parameters is None:
            continue
        if type(parameters) is not dict:
            yield Violation(f"{path}.parameters", f"The parameters are {describe_value(parameters)}, not an object.")
        elif isinstance(fault := compile_parameters(parameters), InvalidSchemaError):
            yield Violation(
                f"{path}.parameters",
                f"The parameters are not a valid JSON Schema: {escape_preview(fault.message, 160)}",
            )
        elif isinstance(fault, SchemaLimitError):
            message = f"The parameters cannot be checked: {escape_preview(fault.message, 160)}."
            yield Violation(f"{path}.parameters", message, level="warning")


@rule("FT302", "invalid-function-name", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS)
def invalid_function_name(row: DatasetRecord) -> Iterator[Violation]:
    """A function name is longer than 64 characters, or has characters other than letters, digits, ``_`` and ``-``.

    Why: The API rejects it.
    Fix: Rename the function, in its definition and in every call.
    Source: OpenAI API description FunctionObject, 2026-08-21.
    """
    functions = [*definitions(row), *called_functions(row)]
    for path, function in functions:
        name = function.get("name") if type(function) is dict else None
        if name and not (type(name) is str and _NAME.fullmatch(name)):
            yield Violation(f"{path}.name", f"The function name {describe_text(name)} is not allowed.")


_DUMP_ARGUMENTS: tuple[Literal["safe"], str] = ("safe", "write an object as a JSON string")


@rule(
    "FT303",
    "arguments-not-json-string",
    "error",
    "D",
    "documented",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=_DUMP_ARGUMENTS,
)
def arguments_not_json_string(row: DatasetRecord) -> Iterator[Violation]:
    """The arguments of a call are not a string, or the string is not a JSON object.

    Why: The API defines arguments as a string that contains a JSON object. The model learns to write what is in the
        data.
    Fix: Write json.dumps(arguments), which is "{}" for a call without arguments.
    Source: OpenAI API description ChatCompletionMessageToolCall, 2026-08-21.
    """
    for path, function in called_functions(row):
        arguments = function.get("arguments")
        if "arguments" not in function:
            yield Violation(f"{path}.arguments", "The call has no arguments.")
        elif type(arguments) is not str:
            yield Violation(f"{path}.arguments", f"The arguments are {describe_value(arguments)}, not a string.")
        elif not arguments.strip():
            yield Violation(f"{path}.arguments", f"The arguments are {describe_value(arguments)}, not JSON.")
        elif (value := parse_arguments(arguments)) is NOT_JSON:
            yield Violation(f"{path}.arguments", "The arguments are not JSON.", escape_preview(arguments, 120))
        elif type(value) is not dict:
            message = f"The arguments are JSON for {describe_value(value)}, not for an object."
            yield Violation(f"{path}.arguments", message)


@rule("FT304", "arguments-violate-schema", "warning", "Q", "inferred", when=TOOLS, formats=MESSAGE_FORMATS)
def arguments_violate_schema(row: DatasetRecord) -> Iterator[Violation]:
    """The arguments of a call do not match the schema of the tool.

    Why: The model learns calls that your own code will reject.
    Fix: Correct the arguments or the schema.
    Source: practice.
    """
    from ftpipe.json_schema import JsonSchema, SchemaLimitError

    schemas = {
        f["name"]: f.get("parameters") for _, f in definitions(row) if type(f) is dict and type(f.get("name")) is str
    }
    for path, function in called_functions(row):
        name = function.get("name")
        parameters = schemas.get(name) if type(name) is str else None
        value = parse_arguments(function.get("arguments"))
        if type(parameters) is not dict or type(value) is not dict:
            continue
        schema = compile_parameters(parameters)
        if not isinstance(schema, JsonSchema):
            continue
        try:
            fault = schema.first_violation(value)
        except SchemaLimitError as exc:
            yield Violation(f"{path}.arguments", f"The arguments cannot be checked against the schema: {exc}.")
            continue
        if fault is not None:
            location = f"{fault.path}: " if fault.path else ""
            yield Violation(f"{path}.arguments", f"{location}{escape_preview(fault.message, 160)}")


@rule("FT305", "unknown-tool", "error", "Q", "inferred", when=TOOLS, formats=MESSAGE_FORMATS)
def unknown_tool(row: DatasetRecord) -> Iterator[Violation]:
    """A call uses a function that ``tools`` does not define.

    Why: The model learns to call functions that do not exist.
    Fix: Add the definition, or correct the name.
    Source: practice.
    """
    known = [f["name"] for _, f in definitions(row) if type(f) is dict and type(f.get("name")) is str]
    for path, function in called_functions(row):
        name = function.get("name")
        if type(name) is str and name not in known:
            listed = ", ".join(escape_preview(n, 30) for n in known[:5]) or "nothing"
            level: Level | None = None if known else "warning"
            yield Violation(
                f"{path}.name", f"'{escape_preview(name, 40)}' is not defined; tools contains: {listed}.", level=level
            )


@rule("FT306", "unmatched-tool-result", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS)
def unmatched_tool_result(row: DatasetRecord) -> Iterator[Violation]:
    """A tool result belongs to no call, or a call in the middle of the conversation has no result.

    Why: The API requires one result per call, matched by id. A conversation can end with a call.
    Fix: Give the result the id of its call, or add the missing result.
    Source: Portkey error library 10553.
    """
    for base, messages in row.lists:
        if type(messages) is list:
            yield from _unmatched(base, messages)


def _unmatched(base: str, messages: list[Json]) -> Iterator[Violation]:
    known: set[str] = set()
    unanswered: dict[str, str] = {}
    for index, message in enumerate(messages):
        if type(message) is not dict:
            continue
        role, tool_calls = message.get("role"), message.get("tool_calls")
        if role == "tool":
            call_id = message.get("tool_call_id")
            if type(call_id) is not str or call_id not in known:
                state = "is missing"
                if "tool_call_id" in message:
                    state = f"is {describe_text(call_id)}, which does not match an earlier call"
                yield Violation(f"{base}[{index}].tool_call_id", f"The tool result's tool_call_id {state}.")
            unanswered.pop(call_id if type(call_id) is str else "", None)
        elif unanswered and (role == "user" or (role == "assistant" and not tool_calls)):
            for name, path in unanswered.items():
                yield Violation(
                    path, f"The call '{escape_preview(name, 40)}' has no result before the conversation continues."
                )
            unanswered.clear()
        for call_index, call in enumerate(tool_calls if type(tool_calls) is list else ()):
            new_id = call.get("id") if type(call) is dict else None
            if type(new_id) is str:
                known.add(new_id)
                unanswered[new_id] = f"{base}[{index}].tool_calls[{call_index}].id"


@rule(
    "FT307",
    "duplicate-call-id",
    "error",
    "Q",
    "inferred",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=("safe", "give the later calls new ids"),
)
def duplicate_call_id(row: DatasetRecord) -> Iterator[Violation]:
    """Two calls of one assistant message have the same id.

    Why: Their results cannot be told apart.
    Fix: Give every call a unique id.
    Source: practice; an id that is used again in a later turn, after its result, is accepted.
    """
    known: set[tuple[str, int, str]] = set()
    for path, base, index, call in calls(row):
        name = call.get("id") if type(call) is dict else None
        if type(name) is str:
            if (base, index, name) in known:
                yield Violation(f"{path}.id", f"The id '{escape_preview(name, 40)}' is used twice.")
            known.add((base, index, name))


@rule("FT308", "parallel-tool-calls-conflict", "error", "Q", "inferred", when=TOOLS, formats=frozenset({"chat", "dpo"}))
def parallel_tool_calls_conflict(row: DatasetRecord) -> Iterator[Violation]:
    """A message has several calls although ``parallel_tool_calls`` is false.

    Why: The record contradicts its own setting.
    Fix: Make one call per message, or remove the setting.
    Source: practice.
    """
    source = row.record.get("input") if row.kind == "dpo" else row.record
    if type(source) is not dict or source.get("parallel_tool_calls") is not False:
        return
    for base, index, message in row.messages():
        tool_calls = message.get("tool_calls")
        if type(tool_calls) is list and len(tool_calls) > 1:
            yield Violation(
                f"{base}[{index}].tool_calls",
                f"The message has {len(tool_calls)} calls, but parallel_tool_calls is false.",
            )


@rule(
    "FT309",
    "legacy-functions",
    "warning",
    "D",
    "documented",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "write tools, tool_calls and the role tool"),
    together="error",
    fireworks="error",
)
def legacy_functions(row: DatasetRecord) -> Iterator[Violation]:
    """The record uses ``functions`` or ``function_call``.

    Why: Both are deprecated; newer models are trained with tools and tool_calls, and Together and Fireworks know only
        those.
    Fix: Use tools, tool_calls and the role tool.
    Source: OpenAI API description, 2026-08-21; data preparation pages of Together and Fireworks, 2026-08.
    """
    base, source = row.tool_source()
    if "functions" in source:
        yield Violation(f"{base}functions", "functions is the old form of tools.")
    for base, index, message in row.messages():
        if "function_call" in message:
            yield Violation(f"{base}[{index}].function_call", "function_call is the old form of tool_calls.")


@rule("FT310", "tools-never-called", "info", "Q", "inferred", scope="file", formats=MESSAGE_FORMATS)
def tools_never_called(stats: ScanStatistics) -> Iterator[Violation]:
    """Records define tools, but no record calls one.

    Why: The model learns not to use tools.
    Fix: Add examples with calls, or remove the definitions.
    Source: practice.
    """
    content = stats.content
    if content.with_tools and not content.with_calls:
        yield Violation("", f"{content.with_tools:,} records define tools, but no record calls one.")


@rule(
    "FT311",
    "incomplete-tool-call",
    "error",
    "R",
    "observed",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=("safe", 'add "type": "function"'),
)
def incomplete_tool_call(row: DatasetRecord) -> Iterator[Violation]:
    """A tool call has no ``type``, no ``id`` or no ``function``, or calls are not in a list of objects.

    Why: The service requires all three.
    Fix: Write {"id": …, "type": "function", "function": {"name": …, "arguments": "…"}}.
    Source: Portkey error library 10553.
    """
    for base, index, message in row.messages():
        for key, kind in (("tool_calls", list), ("function_call", dict)):
            value = message.get(key)
            if value is not None and type(value) is not kind:
                expected = "a list" if kind is list else "an object"
                yield Violation(f"{base}[{index}].{key}", f"{key} is {describe_value(value)}, not {expected}.")
    for path, _, _, call in calls(row):
        if type(call) is not dict:
            yield Violation(path, f"The call is {describe_value(call)}, not an object.")
            continue
        if call.get("type") != "function":
            state = describe_value(call["type"]) if "type" in call else "missing"
            yield Violation(f"{path}.type", f"The call's type is {state}; it must be 'function'.")
        if type(call.get("id")) is not str:
            state = describe_value(call["id"]) if "id" in call else "missing"
            yield Violation(f"{path}.id", f"The call's id is {state}; it must be a string.")
        yield from _function_violations(f"{path}.function", call)


def _function_violations(path: str, call: dict[str, Any]) -> Iterator[Violation]:
    """What is wrong with the function of a call, except for the spelling of its name."""
    function = call.get("function")
    if type(function) is not dict:
        state = describe_value(function) if "function" in call else "missing"
        yield Violation(path, f"The call's function is {state}; it must be an object with a name.")
    elif not function.get("name"):
        state = describe_value(function["name"]) if "name" in function else "missing"
        yield Violation(path, f"The name of the called function is {state}.")


@rule("FT312", "inconsistent-tool-definition", "warning", "Q", "inferred", scope="file", formats=MESSAGE_FORMATS)
def inconsistent_tool_definition(stats: ScanStatistics) -> Iterator[Violation]:
    """A tool is defined differently in different records.

    Why: At inference there is one definition; the other versions teach calls that do not match it.
    Fix: Use one definition, or different names.
    Source: practice.
    """
    for name, (line, other) in stats.content.drift.items():
        yield Violation("", f"'{escape_preview(name, 40)}' is defined differently than at line {other}.", line=line)
