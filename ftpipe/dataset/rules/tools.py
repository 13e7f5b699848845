"""FT3: tools, their definitions, calls and results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import orjson

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.check_settings import Level
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import TOOLS
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics


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


FAMILY = RuleGroup("Tools")
rule = FAMILY.rule

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@rule("FT301", "bad-tool-schema", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS)
def bad_tool_schema(row: DatasetRecord) -> Iterator[Violation]:
    """A tool definition has no name, or its parameters are no JSON Schema.

    Why: The service reads the definition before the first example.
    Fix: Write {"type": "function", "function": {"name": …, "parameters": {"type": "object", "properties": {…}}}}.
    Source: OpenAI API description FunctionObject, 2026-08-21.
    """
    source = row.record.get("input") if row.kind == "dpo" else row.record
    listed = source.get("tools") if type(source) is dict else None
    if listed is not None and type(listed) is not list:
        yield Violation("tools", f"tools is {escape_preview(listed)}, not a list.")
    for path, function in definitions(row):
        if type(function) is not dict:
            yield Violation(path, f"The definition is {escape_preview(function)}, not an object with a function.")
            continue
        if not function.get("name"):
            yield Violation(f"{path}.name", "The function has no name.")
        parameters = function.get("parameters")
        if parameters is None:
            continue
        if type(parameters) is not dict:
            yield Violation(f"{path}.parameters", f"The parameters are {escape_preview(parameters)}, not an object.")
        elif fault := schema_fault(canonical_json(parameters)):
            yield Violation(f"{path}.parameters", f"The parameters are no JSON Schema: {escape_preview(fault, 160)}")


@rule("FT302", "bad-function-name", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS)
def bad_function_name(row: DatasetRecord) -> Iterator[Violation]:
    """A function's name has other characters than letters, digits, ``_`` and ``-``, or more than 64.

    Why: The API refuses it.
    Fix: Rename the function, in its definition and in every call.
    Source: OpenAI API description FunctionObject, 2026-08-21.
    """
    places = [*definitions(row), *functions_called(row)]
    for path, function in places:
        name = function.get("name") if type(function) is dict else None
        if name and not (type(name) is str and _NAME.fullmatch(name)):
            yield Violation(f"{path}.name", f"The function name is '{escape_preview(name)}'.")


_DUMP: tuple[Literal["safe"], str] = ("safe", "write an object as a JSON string")


@rule("FT303", "arguments-not-json-string", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS, fix=_DUMP)
def arguments_not_json_string(row: DatasetRecord) -> Iterator[Violation]:
    """The arguments of a call are no string, or no JSON inside the string.

    Why: The API defines arguments as a string that holds JSON; the model learns to write what stands there.
    Fix: Write json.dumps(arguments).
    Source: OpenAI API description ChatCompletionMessageToolCall, 2026-08-21.
    """
    for path, function in functions_called(row):
        arguments = function.get("arguments")
        if type(arguments) is not str:
            yield Violation(f"{path}.arguments", f"The arguments are {escape_preview(arguments)}, not a string.")
        elif arguments.strip() and read_arguments(arguments) is None:
            yield Violation(f"{path}.arguments", "The arguments are not JSON.", escape_preview(arguments, 120))


@rule("FT304", "arguments-break-schema", "warning", "Q", "inferred", when=TOOLS, formats=MESSAGE_FORMATS)
def arguments_break_schema(row: DatasetRecord) -> Iterator[Violation]:
    """The arguments of a call do not fit the schema of the tool.

    Why: The model learns calls that your own code will refuse.
    Fix: Correct the arguments, or the schema.
    Source: practice.
    """
    schemas = {
        f["name"]: f.get("parameters") for _, f in definitions(row) if type(f) is dict and type(f.get("name")) is str
    }
    for path, function in functions_called(row):
        schema, value = schemas.get(function.get("name", "")), read_arguments(function.get("arguments"))
        if type(schema) is not dict or value is None or schema_fault(canonical_json(schema)):
            continue
        fault = next(iter(validator_of(canonical_json(schema)).iter_errors(value)), None)
        if fault is not None:
            where = ".".join(map(str, fault.absolute_path))
            yield Violation(f"{path}.arguments", f"{where + ': ' if where else ''}{escape_preview(fault.message, 160)}")


@rule("FT305", "unknown-tool", "error", "Q", "inferred", when=TOOLS, formats=MESSAGE_FORMATS)
def unknown_tool(row: DatasetRecord) -> Iterator[Violation]:
    """A call names a function that ``tools`` does not define.

    Why: The model learns to call what is not there.
    Fix: Add the definition, or correct the name.
    Source: practice.
    """
    known = [f.get("name") for _, f in definitions(row) if type(f) is dict]
    for path, function in functions_called(row):
        name = function.get("name")
        if type(name) is str and name not in known:
            listed = ", ".join(escape_preview(n, 30) for n in known[:5]) or "nothing"
            level: Level | None = None if known else "warning"
            yield Violation(
                f"{path}.name", f"'{escape_preview(name, 40)}' is not defined; tools has: {listed}.", level=level
            )


@rule("FT306", "unmatched-tool-result", "error", "D", "documented", when=TOOLS, formats=MESSAGE_FORMATS)
def unmatched_tool_result(row: DatasetRecord) -> Iterator[Violation]:
    """A tool result answers no call, or a call in the middle of the dialogue has no result.

    Why: The API asks for one result per call, by its id. A dialogue may end with a call.
    Fix: Give the result the call's id, or add the missing one.
    Source: Portkey error library 10553.
    """
    for base, messages in row.lists:
        if type(messages) is list:
            yield from _unmatched(base, messages)


def _unmatched(base: str, messages: list[Json]) -> Iterator[Violation]:
    known: set[str] = set()
    waiting: dict[str, str] = {}
    for index, message in enumerate(messages):
        if type(message) is not dict:
            continue
        role, made = message.get("role"), message.get("tool_calls")
        if role == "tool":
            answered = message.get("tool_call_id")
            if type(answered) is not str or answered not in known:
                state = f"'{escape_preview(answered, 40)}' is no earlier call" if answered else "is missing"
                yield Violation(f"{base}[{index}].tool_call_id", f"The tool result's tool_call_id {state}.")
            waiting.pop(answered if type(answered) is str else "", None)
        elif waiting and (role == "user" or (role == "assistant" and not made)):
            for name, path in waiting.items():
                yield Violation(
                    path, f"The call '{escape_preview(name, 40)}' has no result before the dialogue goes on."
                )
            waiting.clear()
        for place, call in enumerate(made if type(made) is list else ()):
            own = call.get("id") if type(call) is dict else None
            if type(own) is str:
                known.add(own)
                waiting[own] = f"{base}[{index}].tool_calls[{place}].id"


@rule(
    "FT307",
    "duplicate-call-id",
    "error",
    "Q",
    "inferred",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=("safe", "number the calls anew"),
)
def duplicate_call_id(row: DatasetRecord) -> Iterator[Violation]:
    """Two calls of one assistant message have the same id.

    Why: Their results cannot be told apart.
    Fix: Give every call an id of its own.
    Source: practice; ids that come back in a later turn, after their result, are let pass.
    """
    seen: set[tuple[str, int, str]] = set()
    for path, base, index, call in calls(row):
        name = call.get("id") if type(call) is dict else None
        if type(name) is str:
            if (base, index, name) in seen:
                yield Violation(f"{path}.id", f"The id '{escape_preview(name, 40)}' stands twice.")
            seen.add((base, index, name))


@rule("FT308", "parallel-conflict", "error", "Q", "inferred", when=TOOLS, formats=frozenset({"chat", "dpo"}))
def parallel_conflict(row: DatasetRecord) -> Iterator[Violation]:
    """A message makes several calls while ``parallel_tool_calls`` is false.

    Why: The record contradicts its own setting.
    Fix: Make one call per message, or drop the setting.
    Source: practice.
    """
    source = row.record.get("input") if row.kind == "dpo" else row.record
    if type(source) is not dict or source.get("parallel_tool_calls") is not False:
        return
    for base, index, message in row.messages():
        made = message.get("tool_calls")
        if type(made) is list and len(made) > 1:
            yield Violation(
                f"{base}[{index}].tool_calls", f"There are {len(made)} calls, and parallel_tool_calls is false."
            )


@rule(
    "FT309",
    "legacy-functions",
    "warning",
    "D",
    "documented",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "write tools and tool_calls"),
)
def legacy_functions(row: DatasetRecord) -> Iterator[Violation]:
    """The record uses ``functions`` or ``function_call``.

    Why: Both are deprecated; newer models are trained with tools and tool_calls.
    Fix: Write tools, tool_calls and role tool.
    Source: OpenAI API description, 2026-08-21.
    """
    if "functions" in row.record:
        yield Violation("functions", "functions is the old form of tools.")
    for base, index, message in row.messages():
        if "function_call" in message:
            yield Violation(f"{base}[{index}].function_call", "function_call is the old form of tool_calls.")


@rule("FT310", "tools-never-called", "info", "Q", "inferred", scope="file", formats=MESSAGE_FORMATS)
def tools_never_called(stats: ScanStatistics) -> Iterator[Violation]:
    """Records define tools, and none is ever called.

    Why: The model learns to leave the tools alone.
    Fix: Add examples with calls, or drop the definitions.
    Source: practice.
    """
    content = stats.content
    if content.with_tools and not content.with_calls:
        yield Violation("", f"{content.with_tools:,} records define tools, no record calls one.")


@rule(
    "FT311",
    "call-missing-type",
    "error",
    "R",
    "observed",
    when=TOOLS,
    formats=MESSAGE_FORMATS,
    fix=("safe", 'add "type": "function"'),
)
def call_missing_type(row: DatasetRecord) -> Iterator[Violation]:
    """A tool call has no ``type``, no ``id`` or no ``function``.

    Why: The service reads all three.
    Fix: Write {"id": …, "type": "function", "function": {"name": …, "arguments": "…"}}.
    Source: Portkey error library 10553.
    """
    for path, _, _, call in calls(row):
        if type(call) is not dict:
            yield Violation(path, f"The call is {escape_preview(call)}, not an object.")
            continue
        if call.get("type") != "function":
            yield Violation(f"{path}.type", f"The call's type is {escape_preview(call.get('type'))}, not 'function'.")
        if type(call.get("id")) is not str:
            yield Violation(f"{path}.id", "The call has no id.")
        if type(call.get("function")) is not dict or not call["function"].get("name"):
            yield Violation(f"{path}.function", "The call names no function.")


@rule("FT312", "tool-definition-drift", "warning", "Q", "inferred", scope="file", formats=MESSAGE_FORMATS)
def tool_definition_drift(stats: ScanStatistics) -> Iterator[Violation]:
    """A tool of one name is defined in different ways across records.

    Why: At use there is one definition; the others teach calls that do not fit it.
    Fix: Use one definition, or different names.
    Source: practice.
    """
    for name, (line, other) in stats.content.drift.items():
        yield Violation("", f"'{escape_preview(name, 40)}' is defined otherwise than at line {other}.", line=line)
