"""The items of a response's conversation: as clients send them, as they are stored and listed, and as chat messages.

Source: ``openai.types.responses`` of openai-python 3.57.0 (``ResponseInputItem``, ``ResponseItem``), read 2026-11-29.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from ftpipe.server.api.schemas import RequestModel, Text, validate_body
from ftpipe.server.protocol import ApiError, bad_request, missing_parameter, printable

Item = dict[str, Any]
FindItem = Callable[[str], Item | None]
"""The stored item with this id, if the owner of the request has it."""

RESPONSE_PREFIX = "resp_"
FUNCTION_CALL, CUSTOM_CALL = "function_call", "custom_tool_call"
OUTPUTS = {f"{FUNCTION_CALL}_output": FUNCTION_CALL, f"{CUSTOM_CALL}_output": CUSTOM_CALL}
"""Type of a call's output → type of the call."""
_ITEM_ID = re.compile(r"[a-z]{2,8}_([A-Za-z0-9]{24})[0-9a-f]{4}")
_STATUS = Literal["in_progress", "completed", "incomplete"]
_TEXT_PARTS = ("input_text", "output_text")


class _MessageItem(RequestModel):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    id: Text | None = None
    status: _STATUS | None = None
    phase: Any = None


class _CallItem(RequestModel):
    call_id: Text
    name: Text
    id: Text | None = None
    status: _STATUS | None = None
    namespace: Any = None
    caller: Any = None
    created_by: Any = None
    async_: Any = Field(None, alias="async")


class _FunctionCallItem(_CallItem):
    type: Literal["function_call"]
    arguments: str


class _CustomCallItem(_CallItem):
    type: Literal["custom_tool_call"]
    input: str


class _CallOutputItem(RequestModel):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: Text
    output: str | list[dict[str, Any]]
    id: Text | None = None
    status: _STATUS | None = None
    name: Any = None
    namespace: Any = None
    caller: Any = None
    created_by: Any = None


class _ItemReference(RequestModel):
    type: Literal["item_reference"] | None = None
    id: Text


class ItemIds:
    """Makes the ids of a response's items; they name the response, so that a stored item is found by its id alone.

    Args:
        response_id: The response's id.
    """

    def __init__(self, response_id: str) -> None:
        self._suffix = response_id.removeprefix(RESPONSE_PREFIX)
        self._count = 0

    def new(self, prefix: str) -> str:
        """The id of the next item, for example with the prefix ``msg_``."""
        self._count += 1
        return f"{prefix}{self._suffix}{self._count - 1:04x}"


def response_of_item(item_id: str) -> str | None:
    """The id of the response that an item belongs to; ``None`` if the server did not make the item's id."""
    match = _ITEM_ID.fullmatch(item_id)
    return None if match is None else RESPONSE_PREFIX + match[1]


def parse_items(value: str | list[dict[str, Any]] | None, ids: ItemIds, find: FindItem) -> list[Item]:
    """The items of a request's ``input``, in the form in which they are stored and listed.

    Args:
        value: A text, or items.
        ids: Makes ids for items that have none.
        find: Finds the items that are sent as references.

    Raises:
        ApiError: 400 for an item that is wrong or not served; 404 for a reference to an item that is not stored.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [_message("user", [_input_text(value)], ids.new("msg_"), "completed")]
    return [_parse_item(item, f"input[{index}]", ids, find) for index, item in enumerate(value)]


def _parse_item(item: Mapping[str, Any], where: str, ids: ItemIds, find: FindItem) -> Item:
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    prefix = f"{where}."
    if kind == "message":
        message = validate_body(_MessageItem, item, prefix)
        content = _parse_content(message.content, f"{prefix}content", is_answer=message.role == "assistant")
        return _message(message.role, content, message.id or ids.new("msg_"), message.status or "completed")
    if kind == FUNCTION_CALL:
        call = validate_body(_FunctionCallItem, item, prefix)
        return function_call(call.id or ids.new("fc_"), call.call_id, call.name, call.arguments, call.status)
    if kind == CUSTOM_CALL:
        custom = validate_body(_CustomCallItem, item, prefix)
        return custom_tool_call(custom.id or ids.new("ctc_"), custom.call_id, custom.name, custom.input)
    if isinstance(kind, str) and kind in OUTPUTS:
        return _parse_output(item, prefix, ids)
    if kind == "item_reference":
        reference = validate_body(_ItemReference, item, prefix)
        found = find(reference.id)
        if found is None:
            message_text = f"Item with id '{printable(reference.id)}' not found. Only items of stored responses are."
            raise ApiError(404, message_text, None, "input")
        return found
    if kind is None:
        raise missing_parameter(f"{where}.type")
    message_text = f"Invalid '{where}': local models do not support items of type '{printable(str(kind))}'."
    raise bad_request(message_text, where, "unsupported_item")


def _parse_output(item: Mapping[str, Any], prefix: str, ids: ItemIds) -> Item:
    """The output of a call."""
    output = validate_body(_CallOutputItem, item, prefix)
    parts = output.output
    return {
        "id": output.id or ids.new("fco_" if output.type == "function_call_output" else "ctco_"),
        "type": output.type,
        "status": output.status or "completed",
        "call_id": output.call_id,
        "output": parts if isinstance(parts, str) else _parse_content(parts, f"{prefix}output", is_answer=False),
    }


def _parse_content(content: str | list[dict[str, Any]], where: str, *, is_answer: bool) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [output_text(content) if is_answer else _input_text(content)]
    return [_parse_part(part, f"{where}[{index}]", is_answer=is_answer) for index, part in enumerate(content)]


def _parse_part(part: Mapping[str, Any], where: str, *, is_answer: bool) -> dict[str, Any]:
    kind = part.get("type")
    text = part.get("refusal" if kind == "refusal" else "text")
    if kind == "refusal" and is_answer and isinstance(text, str):
        return {"type": "refusal", "refusal": text}
    if kind not in _TEXT_PARTS:
        message = f"Invalid '{where}': '{printable(str(kind))}' is not supported: local models accept text only."
        raise bad_request(message, where, "unsupported_content")
    if not isinstance(text, str):
        raise missing_parameter(f"{where}.text")
    return output_text(text) if is_answer else _input_text(text)


def _message(role: str, content: list[dict[str, Any]], item_id: str, status: str) -> Item:
    return {"id": item_id, "type": "message", "role": role, "status": status, "content": content}


def function_call(item_id: str, call_id: str, name: str, arguments: str, status: str | None = None) -> Item:
    """A call of a function."""
    return {
        "id": item_id,
        "type": FUNCTION_CALL,
        "status": status or "completed",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def custom_tool_call(item_id: str, call_id: str, name: str, text: str) -> Item:
    """A call of a custom tool; it has a status only where items are listed."""
    return {"id": item_id, "type": CUSTOM_CALL, "call_id": call_id, "name": name, "input": text}


def listed_item(item: Item) -> Item:
    """An item as lists have it."""
    return {"status": "completed", **item}


def answer_message(item_id: str, status: str, content: list[dict[str, Any]]) -> Item:
    """A message of the model."""
    return _message("assistant", content, item_id, status)


def output_text(text: str, logprobs: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A part of a message of the model."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _input_text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """Items as the messages of a chat; calls are part of the message before them, if the model wrote it.

    Raises:
        ApiError: 400 for the output of a call that is not there.
    """
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "developer", "content": instructions})
    calls: set[str] = set()
    for item in items:
        if item["type"] == "message":
            messages.append({"role": item["role"], "content": _text_of(item["content"])})
        elif item["type"] in (FUNCTION_CALL, CUSTOM_CALL):
            calls.add(item["call_id"])
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(_chat_call(item))
        else:
            call_id = item["call_id"]
            if call_id not in calls:
                message = f"No tool call found for function call output with call_id '{printable(call_id)}'."
                raise bad_request(message, "input", None)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": _text_of(item["output"])})
    return messages


def _chat_call(item: Item) -> dict[str, Any]:
    if item["type"] == CUSTOM_CALL:
        return {"id": item["call_id"], "type": "custom", "custom": {"name": item["name"], "input": item["input"]}}
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _text_of(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["refusal" if part["type"] == "refusal" else "text"] for part in content)
