"""The bodies of ``POST /responses`` and ``POST /responses/input_tokens``: what is served, ignored and refused.

Source: ``openai.types.responses`` of openai-python 3.57.0, read 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints

from ftpipe.server.api.chat_schemas import (
    MAX_MESSAGES,
    MAX_TOKENS,
    MAX_TOOLS,
    FunctionName,
    StreamOptions,
    unsupported_parameter,
)
from ftpipe.server.api.schemas import Metadata, RequestModel, Text, validate_body
from ftpipe.server.protocol import bad_request, missing_parameter, printable

LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class TextFormat(RequestModel):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(RequestModel):
    """The format of the answer, and a hint about its length."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _ToolDefinition(RequestModel):
    """What functions and custom tools have in common."""

    name: FunctionName
    description: str | None = None
    # Hints about other ways to call it: accepted, without effect here.
    allowed_callers: list[Literal["direct", "programmatic"]] | None = None
    async_: Annotated[bool | None, Field(alias="async")] = None
    defer_loading: bool | None = None


class FunctionTool(_ToolDefinition):
    """A function that the model may call."""

    type: Literal["function"]
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None
    """A hint as well."""


class CustomToolFormat(RequestModel):
    """What a custom tool's input can be."""

    type: Literal["text", "grammar"]
    definition: str | None = None
    syntax: Literal["lark", "regex"] | None = None


class CustomTool(_ToolDefinition):
    """A tool whose input is a text."""

    type: Literal["custom"]
    format: CustomToolFormat | None = None


class AllowedTools(RequestModel):
    """Which of the tools may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TOOLS)]


class NamedTool(RequestModel):
    """The one tool that must be called."""

    type: Literal["function", "custom"]
    name: Text


class ConversationRequest(RequestModel):
    """What the two requests have in common: a conversation for a model."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    input: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None
    instructions: str | None = None
    previous_response_id: Text | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: TextConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: bool | None = None
    conversation: Any = None
    reasoning: dict[str, Any] | None = None
    personality: Any = None


class CreateResponse(ConversationRequest):
    """``POST /responses``."""

    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[list[Includable], Field(max_length=32)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    background: bool | None = None
    context_management: list[dict[str, Any]] | None = None
    moderation: Any = None
    prompt: Any = None
    service_tier: Any = None
    # Hints that cannot change the answer: accepted, without effect here.
    access_programs: Any = None
    background_options: Any = None
    image: Any = None
    max_tool_calls: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    """Limits the calls of built-in tools, of which there are none."""
    prompt_cache_key: Text | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Annotated[str, StringConstraints(max_length=64)] | None = None
    user: Text | None = None

    @property
    def has_logprobs(self) -> bool:
        """Whether the tokens' log-probabilities are part of the answer."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


Request = TypeVar("Request", bound=ConversationRequest)


def parse_request(model: type[Request], body: Mapping[str, Any]) -> Request:
    """Validate a request, and refuse by name what is not served.

    Raises:
        ApiError: 400.
    """
    parsed = validate_body(model, body)
    if not parsed.input and parsed.previous_response_id is None:
        name = "input"
        raise missing_parameter(name)
    _reject_unsupported(parsed)
    _check_format(parsed)
    return parsed


def _reject_unsupported(request: ConversationRequest) -> None:
    """Refuse what would change the answer and is not served, instead of ignoring it."""
    requested = {
        "conversation": request.conversation is not None,
        "personality": request.personality is not None,
        "reasoning": any(value not in (None, "none") for value in (request.reasoning or {}).values()),
    }
    if isinstance(request, CreateResponse):
        requested |= {
            "background": request.background is True,
            "context_management": bool(request.context_management),
            "moderation": request.moderation is not None,
            "prompt": request.prompt is not None,
        }
        if request.stream_options is not None and not request.stream:
            message = "'stream_options' needs 'stream' to be true."
            raise bad_request(message, "stream_options")
    for name, is_requested in requested.items():
        if is_requested:
            raise unsupported_parameter(name)


def _check_format(request: ConversationRequest) -> None:
    text_format = None if request.text is None else request.text.format
    if text_format is None or text_format.type != "json_schema":
        return
    for name, value in (("name", text_format.name), ("schema", text_format.schema_)):
        if value is None:
            raise missing_parameter(f"text.format.{name}")


def parse_tools(request: ConversationRequest) -> list[FunctionTool | CustomTool]:
    """The tools of a request.

    Raises:
        ApiError: 400 for a tool that OpenAI runs itself, and for a definition that is wrong.
    """
    return [_parse_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools or ())]


def _parse_tool(tool: Mapping[str, Any], where: str) -> FunctionTool | CustomTool:
    kind = tool.get("type")
    if kind is None:
        raise missing_parameter(f"{where}.type")
    if kind == "function":
        return validate_body(FunctionTool, tool, f"{where}.")
    if kind == "custom":
        return validate_body(CustomTool, tool, f"{where}.")
    message = (
        f"Invalid '{where}': local models cannot use tools of type '{printable(str(kind))}', only functions and custom "
        "tools."
    )
    raise bad_request(message, where, "unsupported_tool")


def parse_tool_choice(request: ConversationRequest) -> str | AllowedTools | NamedTool:
    """Which tools may or must be called; ``auto`` if the request does not say it.

    Raises:
        ApiError: 400 for a choice that is not served.
    """
    choice = request.tool_choice
    if choice is None or choice in ("none", "auto", "required"):
        return choice if isinstance(choice, str) else "auto"
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            return validate_body(AllowedTools, choice, "tool_choice.")
        if choice.get("type") in ("function", "custom"):
            return validate_body(NamedTool, choice, "tool_choice.")
    name = "tool_choice"
    raise unsupported_parameter(name)
