"""The JSON of responses as types: the API description at ``/openapi.json`` is made from them.

Those of ``/responses`` and ``/batches`` are in ``response_objects`` and ``batch_objects``. A name that a
type does not have is not sent; the tests compare every response with them.

Source: OpenAI API description 2.3.0, 2026-08-21.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, NotRequired, TypeAlias, TypeVar

from typing_extensions import TypedDict

Item = TypeVar("Item")
JsonObject: TypeAlias = dict[str, Any]


class ErrorDetails(TypedDict):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """An error."""

    error: ErrorDetails


class DeletedObject(TypedDict):
    """What was deleted."""

    id: str
    object: str
    deleted: Literal[True]


class Page(TypedDict, Generic[Item]):
    """One page of a list, with a cursor for the next one."""

    object: Literal["list"]
    data: list[Item]
    first_id: str
    last_id: str
    has_more: bool


class NullablePage(TypedDict, Generic[Item]):
    """One page of a list; the cursors of an empty one are ``null``."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PlainPage(TypedDict, Generic[Item]):
    """One page of a list; the id of its last object is the cursor for the next one."""

    object: Literal["list"]
    data: list[Item]
    has_more: bool


# The server.


class JobCounts(TypedDict):
    """Numbers of jobs."""

    running: int
    open: int


class Health(TypedDict):
    """That the server works."""

    status: Literal["ok"]
    version: str
    data_dir_id: str
    inference: NotRequired[JsonObject]
    jobs: NotRequired[JobCounts]


# Files and uploads.


class FileObject(TypedDict):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"]
    expires_at: NotRequired[int]


class UploadObject(TypedDict):
    """An upload."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    expires_at: int
    file: NotRequired[FileObject]


class UploadPartObject(TypedDict):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


# Fine-tuning.


class JobError(TypedDict):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class UsedHyperparameters(TypedDict):
    """The hyperparameters that all methods have."""

    n_epochs: int | float | str | None
    batch_size: int | str | None
    learning_rate_multiplier: float | str | None


class MethodHyperparameters(TypedDict):
    """All hyperparameters of a method."""

    hyperparameters: JsonObject


class ReinforcementMethod(MethodHyperparameters):
    """The hyperparameters and the grader of reinforcement."""

    grader: JsonObject


class JobMethod(TypedDict):
    """The method of a job, with its hyperparameters."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: NotRequired[MethodHyperparameters]
    reinforcement: NotRequired[ReinforcementMethod]
    dpo: NotRequired[MethodHyperparameters]


class OwnJobState(TypedDict):
    """What OpenAI's API has no word for."""

    paused: Literal[True]
    reason: str | None


class JobObject(TypedDict):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    error: JobError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: UsedHyperparameters
    model: str
    organization_id: str
    result_files: list[str]
    status: Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    integrations: list[JsonObject]
    seed: int
    estimated_finish: int | None
    method: JobMethod
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    x_ftpipe: NotRequired[OwnJobState]


class JobEvent(TypedDict):
    """An event of a job."""

    object: Literal["fine_tuning.job.event"]
    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: JsonObject


class CheckpointObject(TypedDict):
    """A checkpoint of a job."""

    object: Literal["fine_tuning.job.checkpoint"]
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


class PermissionObject(TypedDict):
    """The permission of a project to use a checkpoint."""

    object: Literal["checkpoint.permission"]
    id: str
    created_at: int
    project_id: str


class GraderRunMetadata(TypedDict):
    """How a sample was graded."""

    name: str
    type: str
    errors: JsonObject
    execution_time: float
    scores: JsonObject
    token_usage: int | None
    sampled_model_name: str | None


class GraderRun(TypedDict):
    """The score of a sample."""

    reward: float
    metadata: GraderRunMetadata
    sub_rewards: JsonObject
    model_grader_token_usage_per_model: JsonObject


class GraderValidation(TypedDict):
    """A grader that can be used."""

    grader: JsonObject


class ModelLimits(TypedDict):
    """How many jobs a model can have."""

    max_total_jobs: int
    max_concurrent_jobs: int
    active_jobs: int


# Models and their answers.


class ModelObject(TypedDict):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelObject]


class ScoredToken(TypedDict):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class AnswerToken(ScoredToken):
    """A token of an answer, with those that could have stood in its place."""

    top_logprobs: list[ScoredToken]


class ChatLogprobs(TypedDict):
    """The log-probabilities of an answer."""

    content: list[AnswerToken] | None
    refusal: None


class CalledFunctionObject(TypedDict):
    """A function that the model calls."""

    name: str
    arguments: str


class FunctionCallObject(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: CalledFunctionObject


class CalledCustomToolObject(TypedDict):
    """A custom tool that the model calls."""

    name: str
    input: str


class CustomCallObject(TypedDict):
    """A call of a custom tool."""

    id: str
    type: Literal["custom"]
    custom: CalledCustomToolObject


class ChatMessageObject(TypedDict):
    """An answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: NotRequired[list[FunctionCallObject | CustomCallObject]]
    function_call: NotRequired[CalledFunctionObject]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: int
    message: ChatMessageObject
    logprobs: ChatLogprobs | None
    finish_reason: str


class TokenUsage(TypedDict):
    """How many tokens a request and its answers have."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    """The answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class StoredChatCompletion(ChatCompletion):
    """A stored answer."""

    metadata: dict[str, str]


class StoredMessage(TypedDict):
    """A message of a stored chat; what its request had besides these fields is there, too."""

    id: str
    role: str
    content: str | None
    content_parts: list[JsonObject] | None
    refusal: str | None
    name: str | None


class FunctionPiece(TypedDict):
    """A piece of a call of a function; the first one has the name."""

    name: NotRequired[str]
    arguments: str


class CustomToolPiece(TypedDict):
    """A piece of a call of a custom tool; the first one has the name."""

    name: NotRequired[str]
    input: str


class CallPiece(TypedDict):
    """A piece of a call; the first one has id and type."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function", "custom"]]
    function: NotRequired[FunctionPiece]
    custom: NotRequired[CustomToolPiece]


class ChatDelta(TypedDict):
    """What a piece of an answer adds to it."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    refusal: NotRequired[str | None]
    tool_calls: NotRequired[list[CallPiece]]
    function_call: NotRequired[FunctionPiece]


class ChatChunkChoice(TypedDict):
    """A piece of one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletionChunk(TypedDict):
    """A piece of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[TokenUsage | None]


class TextLogprobs(TypedDict, total=False):
    """The log-probabilities of a text; empty for a text without tokens."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One of the texts."""

    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: str | None


class TextCompletion(TypedDict):
    """How a text goes on; the same object is a piece of a streamed one, whose last piece has the tokens."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[TokenUsage | None]


class CachedTokens(TypedDict):
    """Input tokens that were not computed again."""

    cached_tokens: int


class ReasoningTokens(TypedDict):
    """Output tokens before the answer."""

    reasoning_tokens: int
