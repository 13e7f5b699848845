"""The JSON of ``/responses`` as types, and that of each event of its streams.

Source: ``openai.types.responses`` of openai-python 3.57.0, read 2026-11-29.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from ftpipe.server.api.objects import AnswerToken, CachedTokens, JsonObject, ReasoningTokens

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class InputText(TypedDict):
    """A text of the client."""

    type: Literal["input_text"]
    text: str


class OutputText(TypedDict):
    """A text of the model."""

    type: Literal["output_text"]
    text: str
    annotations: list[JsonObject]
    logprobs: list[AnswerToken]


class Refusal(TypedDict):
    """Why the model does not answer."""

    type: Literal["refusal"]
    refusal: str


class MessageItem(TypedDict):
    """A message."""

    id: str
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    status: ItemStatus
    content: list[InputText | OutputText | Refusal]


class FunctionCallItem(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class CustomCallItem(TypedDict):
    """A call of a custom tool; it has a status only in lists."""

    id: str
    type: Literal["custom_tool_call"]
    status: NotRequired[ItemStatus]
    call_id: str
    name: str
    input: str


class CallOutputItem(TypedDict):
    """What a called function or custom tool returned."""

    id: str
    type: Literal["function_call_output", "custom_tool_call_output"]
    status: ItemStatus
    call_id: str
    output: str | list[InputText]


AnyItem: TypeAlias = MessageItem | FunctionCallItem | CustomCallItem | CallOutputItem


class ResponseError(TypedDict):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why a response is not complete."""

    reason: str


class ResponseReasoning(TypedDict):
    """Reasoning, which no model of this server is asked for."""

    effort: None
    summary: None


class ResponseText(TypedDict):
    """The format of the answer."""

    format: JsonObject
    verbosity: str


class CachedInputTokens(CachedTokens):
    """Input tokens that were not computed again."""

    cache_write_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: CachedInputTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseObject(TypedDict):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "cancelled", "failed"]
    background: Literal[False]
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[AnyItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ResponseReasoning
    safety_identifier: str | None
    service_tier: str
    temperature: float
    text: ResponseText
    tool_choice: str | JsonObject
    tools: list[JsonObject]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


class InputTokens(TypedDict):
    """Tokens of a request."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class EventToken(TypedDict):
    """A token in an event."""

    token: str
    logprob: float
    top_logprobs: NotRequired[list[JsonObject]]


class StateEvent(TypedDict):
    """The response has another state."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    sequence_number: int
    response: ResponseObject


class ItemEvent(TypedDict):
    """An item begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: AnyItem


class PartEvent(TypedDict):
    """A part of a message begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | Refusal


class TextDeltaEvent(TypedDict):
    """A piece of a text."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[EventToken]


class TextDoneEvent(TypedDict):
    """The whole text."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[EventToken]


class ArgumentsDeltaEvent(TypedDict):
    """A piece of the arguments of a call."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(TypedDict):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


class CustomInputDeltaEvent(TypedDict):
    """A piece of the input of a custom tool."""

    type: Literal["response.custom_tool_call_input.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class CustomInputDoneEvent(TypedDict):
    """The whole input of a custom tool."""

    type: Literal["response.custom_tool_call_input.done"]
    sequence_number: int
    item_id: str
    output_index: int
    input: str


class ErrorEvent(TypedDict):
    """The stream breaks off."""

    type: Literal["error"]
    sequence_number: int
    code: str | None
    message: str
    param: str | None


ResponseEvent: TypeAlias = (
    StateEvent
    | ItemEvent
    | PartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | CustomInputDeltaEvent
    | CustomInputDoneEvent
    | ErrorEvent
)
