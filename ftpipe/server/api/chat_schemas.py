"""The body of ``POST /chat/completions``: what is served, what is ignored and what is refused.

Source: OpenAI API description, CreateChatCompletionRequest, 2026-08-21.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from ftpipe.inference.custom_tool_input import custom_tool_arguments
from ftpipe.server.api.schemas import Metadata, RequestModel, Text, validate_body, without_ignored
from ftpipe.server.protocol import ApiError, bad_request, missing_parameter

MAX_MESSAGES = 4096
MAX_TOKENS = 1_000_000
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0
MAX_TEMPLATE_VARIABLES = 32
MAX_TOOLS = 128
MAX_PATTERN_CHARACTERS = 4096
RESERVED_VARIABLES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
)
"""What the server itself gives to a chat template, or decides about it."""
ROLES = {
    "developer": "system",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""Roles of the API, and the role that chat templates have for each."""


class StreamOptions(RequestModel):
    """What a stream contains."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(RequestModel):
    """A part of a message's content; only text is supported."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    prompt_cache_breakpoint: Any = None


class CalledFunction(RequestModel):
    """The function of a tool call; what clients add to it is passed on."""

    model_config = ConfigDict(extra="allow")

    name: Text
    arguments: str | dict[str, Any] | None = None


class CalledCustomTool(RequestModel):
    """The custom tool of a tool call."""

    model_config = ConfigDict(extra="allow")

    name: Text
    input: str


class ToolCall(RequestModel):
    """A tool call of an earlier answer; what clients add to it, such as an index, is passed on."""

    model_config = ConfigDict(extra="allow")

    id: Text | None = None
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustomTool | None = None


class Message(RequestModel):
    """One message of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = None
    name: Text | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None
    function_call: CalledFunction | None = None
    """The only call of an earlier answer, in the form that came before tools."""
    audio: Any = None
    annotations: Any = None
    reasoning_content: str | None = None
    """What the model thought before an earlier answer; templates of reasoning models show it. Not in OpenAI's API."""
    reasoning: str | None = None
    """The same, as newer versions of vLLM call it."""


FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class FunctionDefinition(RequestModel):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Grammar(RequestModel):
    """The form of a custom tool's input."""

    definition: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]
    syntax: Literal["lark", "regex"]


class CustomToolFormat(RequestModel):
    """What a custom tool's input can be."""

    type: Literal["text", "grammar"]
    grammar: Grammar | None = None


class CustomToolDefinition(RequestModel):
    """A tool whose input is a text."""

    name: FunctionName
    description: str | None = None
    format: CustomToolFormat | None = None


class Tool(RequestModel):
    """A tool that the model may call."""

    type: Literal["function", "custom"]
    function: FunctionDefinition | None = None
    custom: CustomToolDefinition | None = None


class ResponseFormat(RequestModel):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Any = None


VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


class ChatRequest(RequestModel):
    """``POST /chat/completions``."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Text | Annotated[list[Text], Field(min_length=1, max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    functions: Annotated[list[FunctionDefinition], Field(max_length=MAX_TOOLS)] | None = None
    """Tools in the form that came before ``tools``; the answer has it, too."""
    function_call: Any = None
    response_format: ResponseFormat | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[TokenId, Annotated[int, Field(ge=-100, le=100)]] | None = None
    # Not in OpenAI's API, but in that of vLLM and others.
    # Source: https://docs.vllm.ai/en/stable/serving/openai_compatible_server/, 2026-11-29.
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)] | None = None
    chat_template_kwargs: Annotated[dict[VariableName, Any], Field(max_length=MAX_TEMPLATE_VARIABLES)] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    moderation: Any = None
    web_search_options: Any = None
    # Hints that cannot change the answer: accepted, without effect here.
    audio: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Annotated[str, StringConstraints(max_length=64)] | None = None
    service_tier: Any = None
    user: str | None = None
    verbosity: Any = None

    @property
    def extended_sampling(self) -> dict[str, Any]:
        """The sampling parameters that OpenAI's API does not have, as the engine takes them."""
        return {
            "top_k": max(0, self.top_k or 0),  # -1 is vLLM's word for all tokens
            "min_p": self.min_p or 0.0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "chat_template_kwargs": self.chat_template_kwargs,
        }

    @property
    def bias_by_token(self) -> dict[int, float]:
        """What is added to the logits of tokens, by token id."""
        return {int(id_): float(bias) for id_, bias in (self.logit_bias or {}).items()}

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        if self.stop is None:
            return ()
        texts = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return tuple(text for text in texts if text)


def parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Validate a chat request, and refuse what is not served.

    Raises:
        ApiError: 400.
    """
    chat = validate_body(ChatRequest, without_ignored(body))
    _reject_unsupported(chat)
    if chat.top_logprobs is not None and not chat.logprobs:
        message = "'top_logprobs' needs 'logprobs' to be true."
        raise bad_request(message, "top_logprobs")
    if reserved := sorted(RESERVED_VARIABLES & (chat.chat_template_kwargs or {}).keys()):
        message = f"Invalid 'chat_template_kwargs': '{reserved[0]}' is set by the server."
        raise bad_request(message, f"chat_template_kwargs.{reserved[0]}")
    if chat.stream_options is not None and not chat.stream:
        message = "'stream_options' needs 'stream' to be true."
        raise bad_request(message, "stream_options")
    return chat


def _reject_unsupported(chat: ChatRequest) -> None:
    """Refuse what would change the answer and is not implemented, instead of ignoring it."""
    requested = {
        "modalities": "audio" in (chat.modalities or ()),
        "moderation": chat.moderation is not None,
        "web_search_options": chat.web_search_options is not None,
    }
    for name, is_requested in requested.items():
        if is_requested:
            raise unsupported_parameter(name)


def unsupported_parameter(name: str) -> ApiError:
    """The 400 for a parameter that local models do not support."""
    message = f"'{name}' is not supported by local models with this value."
    return bad_request(message, name, "unsupported_parameter")


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages for a chat template: its roles, and content as one text.

    Raises:
        ApiError: 400 for content that is not text.
    """
    return [_template_message(message, index) for index, message in enumerate(messages)]


def _template_message(message: Message, index: int) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": ROLES[message.role], "content": _text_of(message, index)}
    plain |= message.model_dump(include={"name", "tool_call_id", "function_call"}, exclude_none=True)
    if message.tool_calls:
        where = f"messages[{index}].tool_calls"
        plain["tool_calls"] = [
            _template_call(call, f"{where}[{number}]") for number, call in enumerate(message.tool_calls)
        ]
    if reasoning := message.reasoning_content or message.reasoning:
        plain["reasoning_content"] = reasoning
    return plain


def _text_of(message: Message, index: int) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or message.refusal or ""
    pieces = []
    for part_index, part in enumerate(message.content):
        piece = part.text if part.type == "text" else part.refusal if part.type == "refusal" else None
        if piece is None:
            where = f"messages[{index}].content[{part_index}]"
            message_text = f"Invalid '{where}': local models accept text only."
            raise bad_request(message_text, where, "unsupported_content")
        pieces.append(piece)
    return "".join(pieces)


def _template_call(call: ToolCall, where: str) -> dict[str, Any]:
    """A call of an earlier answer as the call of a function."""
    name, called = ("custom", call.custom) if call.type == "custom" else ("function", call.function)
    if called is None:
        raise missing_parameter(f"{where}.{name}")
    plain: dict[str, Any] = call.model_dump(exclude_none=True)
    if call.custom is not None:
        arguments = custom_tool_arguments(call.custom.input)
        plain |= {"type": "function", "function": {"name": call.custom.name, "arguments": arguments}}
        del plain["custom"]
    return plain
