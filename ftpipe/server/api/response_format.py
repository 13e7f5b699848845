"""``response_format`` and ``tool_choice`` as one grammar that the answer must follow.

Source: OpenAI API description, CreateChatCompletionRequest, 2026-08-21.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.inference.constrained_decoding import build_grammar, json_rule, tool_call_rule
from ftpipe.json_schema import InvalidSchemaError, JsonSchema, SchemaLimitError
from ftpipe.server.api.chat_schemas import ChatRequest, unsupported_parameter
from ftpipe.server.protocol import bad_request

TOOL_CHOICE = "tool_choice"


def response_grammar(chat: ChatRequest) -> str | None:
    """The grammar that the answer must follow, or ``None`` for free text.

    If tools may be called and there is a format, an answer is a call or has the format.

    Raises:
        ApiError: 400 if the format is incomplete or contradicts the rest of the request.
    """
    calls = _required_functions(chat)
    schema = _response_schema(chat)
    if schema is not None:
        _check_schema(schema, "response_format")
    if calls is not None or schema is not None:
        for index, tool in enumerate(chat.tools or ()):
            _check_schema(tool.function.parameters or {}, f"tools[{index}].function.parameters")
    if calls is not None:
        return build_grammar([tool_call_rule(calls)])
    if schema is None:
        return None
    tools = [tool.function.model_dump(exclude_none=True) for tool in chat.tools or ()]
    may_call = tools and chat.tool_choice in (None, "auto")
    return build_grammar([json_rule(schema), tool_call_rule(tools)] if may_call else [json_rule(schema)])


def _check_schema(schema: dict[str, Any], param: str) -> None:
    """Refuse a schema that no answer can follow: one that is not valid, or that refers to itself without an end."""
    if problem := _find_problem(canonical_json(schema)):
        reason, code = problem
        raise bad_request(f"Invalid '{param}': the JSON schema cannot be used: {reason}.", param, code)


@lru_cache(maxsize=32)
def _find_problem(schema: bytes) -> tuple[str, str] | None:
    """What is wrong with a schema, and the code of the error; the check of a large one takes a second."""
    try:
        JsonSchema(json.loads(schema), is_one_of_many=False)
    except (InvalidSchemaError, SchemaLimitError) as exc:
        return str(exc), exc.code
    return None


def grammar_source_param(chat: ChatRequest) -> str:
    """The parameter that a grammar comes from, for errors about it."""
    return "response_format" if _response_schema(chat) is not None else "tools"


def _response_schema(chat: ChatRequest) -> dict[str, Any] | None:
    response_format = chat.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        if not any("json" in message.model_dump_json().lower() for message in chat.messages):
            message = (
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )
            raise bad_request(message, "messages")
        return {"type": "object"}
    json_schema = response_format.json_schema
    if not isinstance(json_schema, dict) or not isinstance(json_schema.get("name"), str):
        message = "Missing required parameter: 'response_format.json_schema.name'."
        raise bad_request(message, "response_format.json_schema.name", "missing_required_parameter")
    schema = json_schema.get("schema", {})
    if not isinstance(schema, dict):
        message = "Invalid 'response_format.json_schema.schema': it must be an object."
        raise bad_request(message, "response_format.json_schema.schema")
    return schema


def _required_functions(chat: ChatRequest) -> list[dict[str, Any]] | None:
    """The functions of which one must be called; ``None`` if a call is not required."""
    choice = chat.tool_choice
    if choice in (None, "none", "auto"):
        return None
    functions = [tool.function.model_dump(exclude_none=True) for tool in chat.tools or ()]
    if not functions:
        message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
        raise bad_request(message, TOOL_CHOICE)
    if choice == "required":
        return functions
    if not isinstance(choice, dict) or choice.get("type") != "function" or not isinstance(choice.get("function"), dict):
        raise unsupported_parameter(TOOL_CHOICE)
    name = choice["function"].get("name")
    named = [function for function in functions if function["name"] == name]
    if not named:
        message = f"Invalid value for 'tool_choice': there is no tool named {str(name)[:64]!r}."
        raise bad_request(message, TOOL_CHOICE)
    return named
