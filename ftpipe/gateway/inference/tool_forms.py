"""Tools that inference servers do not have, as functions: custom tools, ``allowed_tools`` and the older ``functions``.

vLLM and SGLang know functions only. A request is written with functions, and the calls in the answer are written back.

Source: ``vllm/entrypoints/openai/chat_completion/protocol.py`` and ``srt/entrypoints/openai/protocol.py``, read
2026-11-29.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ftpipe.inference.custom_tool_input import CustomInputReader
from ftpipe.server.api.chat_schemas import ChatRequest
from ftpipe.server.api.chat_tools import ALLOWED_TOOLS, ChatTools


def needs_functions(chat: ChatRequest, tools: ChatTools) -> bool:
    """Whether the tools of a request must be written as functions."""
    has_allowed_tools = isinstance(chat.tool_choice, dict) and chat.tool_choice.get("type") == ALLOWED_TOOLS
    return tools.is_legacy or has_allowed_tools or any(tool.type == "custom" for tool in chat.tools or ())


def tool_fields(tools: ChatTools) -> dict[str, Any]:
    """``tools`` and ``tool_choice`` of a request whose tools are functions."""
    functions = tools.template_tools()
    if functions is None:
        return {}
    if not tools.is_required:
        return {"tools": functions, "tool_choice": "auto"}
    if len(functions) > 1:
        return {"tools": functions, "tool_choice": "required"}
    return {
        "tools": functions,
        "tool_choice": {"type": "function", "function": {"name": functions[0]["function"]["name"]}},
    }


def messages_with_tool_calls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages in which each ``function_call`` is a tool call with an id, which its result has, too."""
    written: list[dict[str, Any]] = []
    last_id = ""
    for index, message in enumerate(messages):
        plain = dict(message)
        called = plain.pop("function_call", None)
        if called is not None and not plain.get("tool_calls"):
            last_id = f"call_{index}"
            arguments = called.get("arguments")
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
            function = {"name": called["name"], "arguments": text}
            plain["tool_calls"] = [{"id": last_id, "type": "function", "function": function}]
        elif plain["role"] == "tool" and last_id:
            plain.setdefault("tool_call_id", last_id)
        written.append(plain)
    return written


class ToolForms:
    """Writes the calls of one answer, whole or in pieces, as the request has its tools.

    Args:
        tools: The request's.
    """

    def __init__(self, tools: ChatTools) -> None:
        self._is_legacy = tools.is_legacy
        self._custom_names = tools.custom_names
        self._readers: dict[tuple[int, int], CustomInputReader] = {}
        """Of the custom tools' calls that are streamed, by the numbers of their choice and call."""

    def apply(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """An answer, or a piece of one; nothing in it is trusted to have the right type."""
        choices = answer.get("choices")
        if not isinstance(choices, list) or not (self._is_legacy or self._custom_names):
            return answer
        return {**answer, "choices": [self._choice(one) if isinstance(one, Mapping) else one for one in choices]}

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        written = dict(choice)
        if isinstance(message := choice.get("message"), Mapping):
            calls = [self._whole_call(call) for call in _calls(message)]
            written["message"] = self._with_calls(message, calls)
        if isinstance(delta := choice.get("delta"), Mapping):
            calls = [piece for call in _calls(delta) for piece in self._call_piece(_index(choice), call)]
            calls += self._last_pieces(choice)
            if self._is_legacy:
                calls = [call for call in calls if _index(call) == 0]
            written["delta"] = self._with_calls(delta, calls)
        if self._is_legacy and choice.get("finish_reason") == "tool_calls":
            written["finish_reason"] = "function_call"
        return written

    def _with_calls(self, message: Mapping[str, Any], calls: list[dict[str, Any]]) -> dict[str, Any]:
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        if not self._is_legacy:
            return {**rest, "tool_calls": calls} if calls else rest
        return {**rest, "function_call": calls[0]["function"]} if calls else rest

    def _whole_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        if not self._is_custom(function):
            return dict(call)
        reader = CustomInputReader()
        text = reader.read(str(function.get("arguments") or ""))
        custom = {"name": function["name"], "input": text + reader.flush(is_complete=True)}
        return {**_without_function(call), "type": "custom", "custom": custom}

    def _call_piece(self, choice: int, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        function, key = call["function"], (choice, _index(call))
        text = str(function.get("arguments") or "")
        if self._is_custom(function):
            reader = self._readers[key] = CustomInputReader()
            custom = {"name": function["name"], "input": reader.read(text)}
            yield {**_without_function(call), "type": "custom", "custom": custom}
        elif key not in self._readers:
            yield dict(call)
        elif text := self._readers[key].read(text):
            yield {"index": key[1], "custom": {"input": text}}

    def _is_custom(self, function: Mapping[str, Any]) -> bool:
        name = function.get("name")
        return isinstance(name, str) and name in self._custom_names

    def _last_pieces(self, choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        reason = choice.get("finish_reason")
        if reason is None:
            return
        for (number, index), reader in self._readers.items():
            if number == _index(choice) and (rest := reader.flush(is_complete=reason != "length")):
                yield {"index": index, "custom": {"input": rest}}


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    some = calls if isinstance(calls, list) else []
    return [call for call in some if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)]


def _index(value: Mapping[str, Any]) -> int:
    """The number of a choice or a call; the first one can be sent without."""
    index = value.get("index")
    return index if isinstance(index, int) else 0


def _without_function(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "function"}
