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
from ftpipe.server.api.chat_schemas import ChatRequest
from ftpipe.server.api.chat_tools import FUNCTIONS, TOOLS, ChatTools
from ftpipe.server.protocol import bad_request


def response_grammar(chat: ChatRequest, tools: ChatTools) -> str | None:
    """The grammar that the answer must follow, or ``None`` for free text.

    If tools may be called and there is a format, an answer is a call or has the format.

    Raises:
        ApiError: 400 if the format is incomplete, or a schema cannot be used.
    """
    schema = _response_schema(chat)
    if schema is not None:
        _check_schema(schema, "response_format")
    if schema is None and not tools.is_required:
        return None
    for function in tools.functions:
        _check_schema(function.definition.get("parameters") or {}, f"{function.path}.parameters")
    calls = [tool_call_rule([function.definition for function in tools.functions])] if tools.functions else []
    return build_grammar(calls if schema is None or tools.is_required else [json_rule(schema), *calls])


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


def grammar_source_param(chat: ChatRequest, tools: ChatTools) -> str:
    """The parameter that a grammar comes from, for errors about it."""
    if _response_schema(chat) is not None:
        return "response_format"
    return FUNCTIONS if tools.is_legacy else TOOLS


def _response_schema(chat: ChatRequest) -> dict[str, Any] | None:
    response_format = chat.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
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
