"""What form an answer is asked to have: ``response_format`` and ``tool_choice`` as one grammar.

Source: OpenAI API description, CreateChatCompletionRequest, 2026-08-21.
"""

from __future__ import annotations

from typing import Any

from ftpipe.inference.constrained_decoding import build_grammar, json_rule, tool_call_rule
from ftpipe.server.api.chat_schemas import ChatRequest, unsupported_parameter
from ftpipe.server.protocol import bad_request

NAME = "tool_choice"


def response_grammar(asked: ChatRequest) -> str | None:
    """The grammar that the answer is held to, or ``None`` for free text.

    Where tools may be called and a format is asked for, an answer is a call or has the format.

    Raises:
        ApiError: 400 for a form that is incomplete or contradicts the rest of the request.
    """
    calls = _required_functions(asked)
    schema = _response_schema(asked)
    if calls is not None:
        return build_grammar([tool_call_rule(calls)])
    if schema is None:
        return None
    tools = [tool.function.model_dump(exclude_none=True) for tool in asked.tools or ()]
    may_call = tools and asked.tool_choice in (None, "auto")
    return build_grammar([json_rule(schema), tool_call_rule(tools)] if may_call else [json_rule(schema)])


def grammar_source_param(asked: ChatRequest) -> str:
    """The parameter that a grammar comes from, for errors about it."""
    return "response_format" if _response_schema(asked) is not None else "tools"


def _response_schema(asked: ChatRequest) -> dict[str, Any] | None:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        if not any("json" in message.model_dump_json().lower() for message in asked.messages):
            message = (
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )
            raise bad_request(message, "messages")
        return {"type": "object"}
    given = wanted.json_schema
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        message = "Missing required parameter: 'response_format.json_schema.name'."
        raise bad_request(message, "response_format.json_schema.name", "missing_required_parameter")
    schema = given.get("schema", {})
    if not isinstance(schema, dict):
        message = "Invalid 'response_format.json_schema.schema': it must be an object."
        raise bad_request(message, "response_format.json_schema.schema")
    return schema


def _required_functions(asked: ChatRequest) -> list[dict[str, Any]] | None:
    """The functions of which one must be called; ``None`` where none must."""
    wanted = asked.tool_choice
    if wanted in (None, "none", "auto"):
        return None
    functions = [tool.function.model_dump(exclude_none=True) for tool in asked.tools or ()]
    if not functions:
        message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
        raise bad_request(message, NAME)
    if wanted == "required":
        return functions
    if not isinstance(wanted, dict) or wanted.get("type") != "function" or not isinstance(wanted.get("function"), dict):
        raise unsupported_parameter(NAME)
    name = wanted["function"].get("name")
    chosen = [function for function in functions if function["name"] == name]
    if not chosen:
        message = f"Invalid value for 'tool_choice': there is no tool named {str(name)[:64]!r}."
        raise bad_request(message, NAME)
    return chosen
