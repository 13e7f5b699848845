"""A response as a chat: the body of the chat, and its answer and errors as those of a response."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ftpipe.inference.request import ContextLengthError
from ftpipe.server.api.answer_events import (
    AnswerEnd,
    AnswerEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from ftpipe.server.api.chat_objects import serialize_logprob
from ftpipe.server.api.response_events import Event, ResponseBuilder
from ftpipe.server.api.response_items import CUSTOM_CALL, FUNCTION_CALL, OUTPUTS, Item
from ftpipe.server.api.response_schemas import (
    AllowedTools,
    ConversationRequest,
    CreateResponse,
    CustomTool,
    FunctionTool,
    NamedTool,
    parse_tool_choice,
    parse_tools,
)
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiError

_PARAMETERS = (
    (re.compile(r"\bmessages\b"), "input"),
    (re.compile(r"\bresponse_format\.json_schema\b"), "text.format"),
    (re.compile(r"\bresponse_format\b"), "text.format"),
    (re.compile(r"\bmax_completion_tokens\b"), "max_output_tokens"),
    (re.compile(r"(\btools\[\d+\])\.(?:function|custom)\b"), r"\1"),
    (re.compile(r"(\btools\[\d+\]\.format)\.grammar\b"), r"\1"),
    (re.compile(r"\btool_choice\.allowed_tools\b"), "tool_choice"),
)
"""Parameters of a chat in error messages, and what they are called in a response."""


def chat_body(create: ConversationRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of the chat that answers a response.

    Raises:
        ApiError: 400 for tools, or a choice of them, that are not served.
    """
    fields: dict[str, Any] = {
        "model": create.model,
        "messages": messages,
        "parallel_tool_calls": create.parallel_tool_calls,
        "response_format": _response_format(create),
        **_tool_fields(create),
    }
    if isinstance(create, CreateResponse):
        fields |= _sampling_fields(create)
    return {name: value for name, value in fields.items() if value is not None}


def _sampling_fields(create: CreateResponse) -> dict[str, Any]:
    return {
        "max_completion_tokens": create.max_output_tokens,
        "temperature": create.temperature,
        "top_p": create.top_p,
        "logprobs": True if create.has_logprobs else None,
        "top_logprobs": create.top_logprobs if create.has_logprobs else None,
        "user": create.user,
        "safety_identifier": create.safety_identifier,
        "service_tier": create.service_tier,
    }


def _tool_fields(create: ConversationRequest) -> dict[str, Any]:
    tools = [_chat_tool(tool) for tool in parse_tools(create)]
    choice = parse_tool_choice(create)
    if isinstance(choice, NamedTool):
        return {"tools": tools, "tool_choice": _chat_reference(choice.type, choice.name)}
    if isinstance(choice, AllowedTools):
        some = [_chat_reference(one.get("type"), one.get("name")) for one in choice.tools]
        allowed = {"mode": choice.mode, "tools": some}
        return {"tools": tools, "tool_choice": {"type": choice.type, choice.type: allowed}}
    if not tools and choice != "required":
        return {}
    return {"tools": tools, "tool_choice": choice}


def _chat_tool(tool: FunctionTool | CustomTool) -> dict[str, Any]:
    """A tool as chats have it."""
    names = {"name", "description", "parameters", "strict"}
    definition = tool.model_dump(include=names, exclude_none=True)
    if isinstance(tool, CustomTool) and tool.format is not None:
        grammar = tool.format.model_dump(include={"definition", "syntax"}, exclude_none=True)
        definition["format"] = {"type": tool.format.type, **({"grammar": grammar} if grammar else {})}
    return {"type": tool.type, tool.type: definition}


def _chat_reference(kind: object, name: object) -> dict[str, Any]:
    """The name of a tool as chats have it."""
    return {"type": kind, str(kind): {"name": name}}


def _response_format(create: ConversationRequest) -> dict[str, Any] | None:
    text_format = None if create.text is None else create.text.format
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return {"type": "json_object"}
    schema = text_format.model_dump(by_alias=True, include={"name", "schema_", "strict"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": schema}


def newest_items(items: list[Item], count_tokens: Callable[[list[Item]], int], answer_tokens: int) -> list[Item]:
    """All items, or without the oldest ones if they do not fit into the model's context.

    Then there is room for the answer, too, but at most for a quarter of the context. The last item always stays.

    Args:
        items: The conversation.
        count_tokens: Tokens of these items; raises an error with code ``context_length_exceeded`` if they do not fit.
        answer_tokens: Maximum tokens of the answer.
    """

    def count(start: int) -> float:
        try:
            return count_tokens(_without_orphans(items[start:]))
        except ApiError as exc:
            if exc.body["error"]["code"] != ContextLengthError.code:
                raise
            return math.inf

    if not items or count(0) < math.inf:
        return items
    starts = range(len(items) - 1)
    first = bisect_left(starts, 1, key=lambda start: count(start) < math.inf)
    context_tokens = count(first)
    if context_tokens < math.inf:
        limit = context_tokens - min(answer_tokens, context_tokens // 4)
        first = bisect_left(starts, 1, lo=first, key=lambda start: count(start) <= limit)
    return _without_orphans(items[first:])


def _without_orphans(items: list[Item]) -> list[Item]:
    """Items without the outputs of calls that are not among them."""
    calls = {item["call_id"] for item in items if item["type"] in (FUNCTION_CALL, CUSTOM_CALL)}
    return [item for item in items if item["type"] not in OUTPUTS or item["call_id"] in calls]


@contextmanager
def errors_about_response() -> Iterator[None]:
    """Name the parameters in errors of a chat as they are called in a response."""
    try:
        yield
    except ApiError as exc:
        error = exc.body["error"]
        message, param = str(error["message"]), error["param"]
        for pattern, name in _PARAMETERS:
            message = pattern.sub(name, message)
            param = None if param is None else pattern.sub(name, param)
        raise ApiError(exc.status, message, error["code"], param, str(error["type"])) from exc


def add_event(builder: ResponseBuilder, event: AnswerEvent) -> list[Event]:
    """The events of a response's stream for an event of its answer."""
    match event:
        case TextDelta(text):
            return builder.add_text(text, [serialize_logprob(token) for token in event.logprobs])
        case ToolCallStart(_, call_id, name, is_custom):
            return builder.begin_call(call_id, name, is_custom=is_custom)
        case ToolCallDelta(_, text):
            return builder.add_call_text(text)
        case ToolCallEnd(_, is_complete):
            return builder.close_item("completed" if is_complete else "incomplete")
        case AnswerEnd(reason):
            return builder.finish("length" if reason == "length" else "stop", event)


def response_head(response_id: str, create: CreateResponse, model: str) -> dict[str, Any]:
    """The fields of a response that are known before its answer."""
    text = create.text
    text_format = {"type": "text"}
    if text is not None and text.format is not None:
        text_format = text.format.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": response_id,
        "object": "response",
        "created_at": now(),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": create.instructions,
        "max_output_tokens": create.max_output_tokens,
        "max_tool_calls": create.max_tool_calls,
        "model": model,
        "output": [],
        "parallel_tool_calls": create.parallel_tool_calls is not False,
        "previous_response_id": create.previous_response_id,
        "prompt_cache_key": create.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": create.safety_identifier,
        "service_tier": "flex" if create.service_tier == "flex" else "default",
        "temperature": 1.0 if create.temperature is None else create.temperature,
        "text": {"format": text_format, "verbosity": (text and text.verbosity) or "medium"},
        "tool_choice": create.tool_choice or "auto",
        "tools": [_serialize_tool(tool) for tool in parse_tools(create)],
        "top_logprobs": create.top_logprobs or 0,
        "top_p": 1.0 if create.top_p is None else create.top_p,
        "truncation": create.truncation or "disabled",
        "usage": None,
        "user": create.user,
        "metadata": create.metadata or {},
    }


def _serialize_tool(tool: FunctionTool | CustomTool) -> dict[str, Any]:
    fields = tool.model_dump(by_alias=True, exclude_none=True)
    return (
        fields if isinstance(tool, CustomTool) else {"description": None, "parameters": None, "strict": None, **fields}
    )
