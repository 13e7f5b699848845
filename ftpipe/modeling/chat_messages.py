"""Convert messages of OpenAI's API to the form that chat templates of open models expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftpipe.errors import FtpipeError

Message = Mapping[str, Any]


class ChatTemplateError(FtpipeError):
    """A conversation does not fit the base model's chat template."""

    code = "chat_template"


def is_trained(message: Message) -> bool:
    """True for an assistant message whose weight is not 0."""
    return message.get("role") == "assistant" and message.get("weight", 1) != 0


def to_template_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, template: str
) -> list[dict[str, Any]]:
    """Convert messages to the form that chat templates expect.

    Content becomes one string, ``developer`` becomes ``system``, and call arguments become objects. If the
    template supports no tool calls or no tools, they are written into the text as JSON, so that nothing is lost.
    The reasoning of earlier answers is passed on; only templates of reasoning models use it.

    Args:
        messages: Messages in the API's form.
        tools: Tool definitions in the API's form.
        template: The chat template's source.

    Raises:
        ChatTemplateError: A message has a part that is not text.
    """
    result = [_to_template_message(message, supports_tool_calls="tool_calls" in template) for message in messages]
    if tools and "tools" not in template:
        text = "You may call these functions:\n" + "\n".join(
            json.dumps(dict(tool), ensure_ascii=False) for tool in tools
        )
        if result and result[0]["role"] == "system":
            result[0]["content"] = f"{result[0]['content']}\n\n{text}"
        else:
            result.insert(0, {"role": "system", "content": text})
    return result


def _to_template_message(message: Message, *, supports_tool_calls: bool) -> dict[str, Any]:
    role = "system" if message.get("role") == "developer" else message.get("role")
    result: dict[str, Any] = {"role": role, "content": text_of(message)}
    for key in ("name", "tool_call_id", "reasoning_content"):
        if message.get(key) is not None:
            result[key] = message[key]
    calls = list(message.get("tool_calls") or [])
    if message.get("function_call"):
        calls.append({"type": "function", "function": message["function_call"]})
    if not calls:
        return result
    template_calls = [_to_template_call(call) for call in calls]
    if supports_tool_calls:
        result["tool_calls"] = template_calls
    else:
        lines = [
            f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in template_calls
        ]
        result["content"] = "\n".join([result["content"], *lines] if result["content"] else lines)
    return result


def _to_template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = arguments
        arguments = parsed
    named_function = {"name": function.get("name", ""), "arguments": arguments}
    return {**{key: call[key] for key in ("id",) if key in call}, "type": "function", "function": named_function}


def text_of(message: Message) -> str:
    """A message's text: its content, the text parts of its content joined, or its refusal.

    Raises:
        ChatTemplateError: A part is neither text nor a refusal.
    """
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if part.get("type") not in ("text", "refusal"):
            raise ChatTemplateError(
                f"a message has a part of type {part.get('type')!r}, and local models support text only",
                "remove images, audio and files from the data for local training",
            )
        parts.append(str(part.get("text", part.get("refusal", ""))))
    return "".join(parts)
