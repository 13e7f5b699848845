"""Writes messages in the form that chat templates of open models expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftpipe.errors import FtpipeError

Message = Mapping[str, Any]


class ChatTemplateError(FtpipeError):
    """A conversation cannot be trained on with this base's chat template."""

    code = "mask"


def to_template_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, template: str
) -> list[dict[str, Any]]:
    """Write messages in the form that chat templates expect.

    Content becomes one string, ``developer`` becomes ``system``, and call arguments become objects. Where the
    template knows no tool calls or no tools, they are written into the text as JSON, so that nothing is lost.

    Args:
        messages: Messages as the API has them.
        tools: Tool definitions as the API has them.
        template: The chat template's source.

    Raises:
        ChatTemplateError: A message holds more than text.
    """
    fitted = [_fit_message(message, knows_calls="tool_calls" in template) for message in messages]
    if tools and "tools" not in template:
        text = "You may call these functions:\n" + "\n".join(
            json.dumps(dict(tool), ensure_ascii=False) for tool in tools
        )
        if fitted and fitted[0]["role"] == "system":
            fitted[0]["content"] = f"{fitted[0]['content']}\n\n{text}"
        else:
            fitted.insert(0, {"role": "system", "content": text})
    return fitted


def _fit_message(message: Message, *, knows_calls: bool) -> dict[str, Any]:
    role = "system" if message.get("role") == "developer" else message.get("role")
    fitted: dict[str, Any] = {"role": role, "content": text_of(message)}
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            fitted[key] = message[key]
    calls = list(message.get("tool_calls") or [])
    if message.get("function_call"):
        calls.append({"type": "function", "function": message["function_call"]})
    if not calls:
        return fitted
    plain = [_plain_call(call) for call in calls]
    if knows_calls:
        fitted["tool_calls"] = plain
    else:
        lines = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in plain]
        fitted["content"] = "\n".join([fitted["content"], *lines] if fitted["content"] else lines)
    return fitted


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = arguments
        arguments = parsed
    named = {"name": function.get("name", ""), "arguments": arguments}
    return {**{key: call[key] for key in ("id",) if key in call}, "type": "function", "function": named}


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
                f"a message has a part of type {part.get('type')!r}, and local bases read text only",
                "leave images, audio and files out of the data for local training",
            )
        parts.append(str(part.get("text", part.get("refusal", ""))))
    return "".join(parts)
