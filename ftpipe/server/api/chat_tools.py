"""The tools of a chat in one form: functions, and whether one may or must be called.

Clients also send custom tools, a selection of allowed tools, and the ``functions`` that came before tools.

Source: OpenAI API description, CreateChatCompletionRequest, 2026-08-21; ``openai.types.chat`` of openai-python 3.57.0,
read 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ftpipe.inference.custom_tool_input import custom_tool_parameters
from ftpipe.server.api.chat_schemas import MAX_TOOLS, ChatRequest, CustomToolDefinition, Tool, unsupported_parameter
from ftpipe.server.api.schemas import RequestModel, validate_body
from ftpipe.server.protocol import bad_request, missing_parameter, printable

TOOL_CHOICE, FUNCTION_CALL = "tool_choice", "function_call"
TOOLS, FUNCTIONS = "tools", "functions"
ALLOWED_TOOLS = "allowed_tools"
_TYPES = ("function", "custom")


class _AllowedTools(RequestModel):
    """Which of the tools may be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TOOLS)]


@dataclass(frozen=True, slots=True)
class CallableFunction:
    """A function that the model may call.

    Attributes:
        definition: Its name, description and parameters, as the model sees them.
        path: Where the request defines it.
        is_custom: Whether it stands for a custom tool.
    """

    definition: Mapping[str, Any]
    path: str
    is_custom: bool = False

    @property
    def name(self) -> str:
        """What the model calls it."""
        return str(self.definition["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTools:
    """What an answer can call.

    Attributes:
        functions: The functions that can be called.
        is_required: Whether the answer must be a call.
        is_legacy: Whether the request has ``functions``, so that the answer has a ``function_call``.
        has_one_call: Whether further calls are left out.
    """

    functions: tuple[CallableFunction, ...] = ()
    is_required: bool = False
    is_legacy: bool = False
    has_one_call: bool = False

    @property
    def custom_names(self) -> frozenset[str]:
        """The names of custom tools."""
        return frozenset(function.name for function in self.functions if function.is_custom)

    @property
    def forced_names(self) -> tuple[str, ...]:
        """The functions of which the answer must call one; empty if it need not be a call."""
        return tuple(function.name for function in self.functions) if self.is_required else ()

    def template_tools(self) -> list[dict[str, Any]] | None:
        """The functions in the API's form, or ``None`` if there are none."""
        return [{"type": "function", "function": dict(one.definition)} for one in self.functions] or None


def parse_chat_tools(chat: ChatRequest) -> ChatTools:
    """The tools of a chat.

    Raises:
        ApiError: 400 for a tool or a choice that is wrong or not served.
    """
    if chat.tools and chat.functions:
        message = f"'{FUNCTIONS}' and '{TOOLS}' cannot be used together."
        raise bad_request(message, FUNCTIONS)
    if chat.functions or (chat.function_call is not None and not chat.tools):
        functions = tuple(
            CallableFunction(function.model_dump(exclude_none=True), f"{FUNCTIONS}[{index}]")
            for index, function in enumerate(chat.functions or ())
        )
        tools = ChatTools(functions=functions, is_legacy=True, has_one_call=True)
        return _choose(tools, _legacy_choice(chat.function_call), FUNCTION_CALL, FUNCTIONS)
    functions = tuple(_parse_tool(tool, f"{TOOLS}[{index}]") for index, tool in enumerate(chat.tools or ()))
    names = [function.name for function in functions]
    for function in functions:
        if function.is_custom and names.count(function.name) > 1:
            message = f"Invalid '{function.path}.name': there is another tool named '{function.name}'."
            raise bad_request(message, f"{function.path}.name")
    tools = ChatTools(functions=functions, has_one_call=chat.parallel_tool_calls is False)
    return _choose(tools, chat.tool_choice, TOOL_CHOICE, TOOLS)


def _parse_tool(tool: Tool, path: str) -> CallableFunction:
    definition = tool.custom if tool.type == "custom" else tool.function
    path = f"{path}.{tool.type}"
    if definition is None:
        raise missing_parameter(path)
    if isinstance(definition, CustomToolDefinition):
        return CallableFunction(_function_of(definition, path), path, is_custom=True)
    return CallableFunction(definition.model_dump(exclude_none=True), path)


def _function_of(tool: CustomToolDefinition, path: str) -> dict[str, Any]:
    """The function that stands for a custom tool."""
    pattern = None
    if tool.format is not None and tool.format.type == "grammar":
        if tool.format.grammar is None:
            raise missing_parameter(f"{path}.format.grammar")
        if tool.format.grammar.syntax == "lark":
            message = (
                f"Invalid '{path}.format.grammar.syntax': local models do not support Lark grammars; use a regular "
                "expression ('regex'), or leave the format out."
            )
            raise bad_request(message, f"{path}.format.grammar.syntax", "unsupported_tool")
        pattern = tool.format.grammar.definition
    described = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **described, "parameters": custom_tool_parameters(pattern)}


def _legacy_choice(choice: object) -> object:
    """``function_call`` as a ``tool_choice``."""
    if isinstance(choice, dict) and choice.keys() == {"name"}:
        return {"type": "function", "function": choice}
    return choice if choice in (None, "none", "auto") else {}


def _choose(tools: ChatTools, choice: object, param: str, tools_param: str) -> ChatTools:
    """The tools that may be called by ``tool_choice``."""
    if choice == "none":
        return ChatTools(is_legacy=tools.is_legacy)
    if choice in (None, "auto"):
        return tools
    if not tools.functions:
        message = f"Invalid value for '{param}': '{param}' is only allowed when '{tools_param}' are specified."
        raise bad_request(message, param)
    if choice == "required":
        return replace(tools, is_required=True)
    if not isinstance(choice, dict):
        raise unsupported_parameter(param)
    kind = choice.get("type")
    if kind == ALLOWED_TOOLS:
        if not isinstance(choice.get(kind), dict):
            raise missing_parameter(f"{param}.{kind}")
        allowed = validate_body(_AllowedTools, choice[kind], f"{param}.{kind}.")
        path = f"{param}.{kind}.tools"
        some = [_find(tools, reference, f"{path}[{index}]") for index, reference in enumerate(allowed.tools)]
        functions = tuple(one for index, one in enumerate(some) if one not in some[:index])
        return replace(tools, functions=functions, is_required=allowed.mode == "required")
    if kind not in _TYPES or not isinstance(choice.get(kind), dict):
        raise unsupported_parameter(param)
    return replace(tools, functions=(_find(tools, choice, param),), is_required=True)


def _find(tools: ChatTools, reference: Mapping[str, Any], param: str) -> CallableFunction:
    """The tool that a choice names, as ``{"type": "function", "function": {"name": …}}``."""
    kind = reference.get("type")
    named = reference.get(kind) if kind in _TYPES else None
    name = named.get("name") if isinstance(named, dict) else None
    for function in tools.functions:
        if function.name == name and function.is_custom == (kind == "custom"):
            return function
    message = f"Invalid value for '{param}': there is no tool named {printable(str(name))[:64]!r}."
    raise bad_request(message, param)
