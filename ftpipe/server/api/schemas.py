"""Request bodies as pydantic models, and their errors in OpenAI's words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from ftpipe.records.job import SERVE_AS_PATTERN
from ftpipe.server.protocol import ApiError, bad_request, missing_parameter, printable

log = logging.getLogger("ftpipe.server")

MAX_METADATA_PAIRS = 16
Auto = Literal["auto"]
Text = Annotated[str, StringConstraints(max_length=4096)]
ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA_PAIRS)]
"""Source: OpenAI API description, Metadata, 2026-08-21."""


class RequestModel(BaseModel):
    """A request body: strict about types, without unknown parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


IGNORED_PARAMETERS = frozenset(
    {
        # Ollama. Source: https://github.com/ollama/ollama/blob/main/docs/api.md, 2026-11-29
        *("keep_alive", "options", "think", "num_ctx", "num_keep", "num_batch", "num_thread", "num_gpu", "main_gpu"),
        *("use_mmap", "use_mlock", "low_vram", "numa"),
        # Mistral. Source: https://docs.mistral.ai/api, 2026-11-29
        *("safe_prompt", "prompt_mode"),
        # vLLM. Source: https://docs.vllm.ai/en/stable/serving/openai_compatible_server/, 2026-11-29
        *("request_id", "priority", "skip_special_tokens", "spaces_between_special_tokens"),
        # llama.cpp. Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, 2026-11-29
        *("cache_prompt", "id_slot", "timings_per_token"),
        # OpenRouter. Source: https://openrouter.ai/docs/api-reference/overview, 2026-11-29
        *("provider", "transforms", "route", "usage", "include_reasoning", "reasoning"),
    }
)
"""Parameters of other servers that clients send by default. They say how such a server works, not what is answered."""
RENAMED_PARAMETERS = {"repeat_penalty": "repetition_penalty"}
"""What Ollama and llama.cpp call a parameter → what vLLM calls the same."""


def without_ignored(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request body without the parameters of other servers, or with our names for them.

    The log says once for each parameter that has no effect.
    """
    for name in IGNORED_PARAMETERS & body.keys():
        log_ignored(name)
    fields = {name: value for name, value in body.items() if name not in IGNORED_PARAMETERS}
    for other, name in RENAMED_PARAMETERS.items():
        if other in fields:
            fields.setdefault(name, fields.pop(other))
    return fields


@cache
def log_ignored(name: str) -> None:
    """Log, at the first call for a name, that a parameter has no effect."""
    log.info("a client sends the parameter %r of another server; it has no effect here", name)


class ExpiresAfter(RequestModel):
    """When a file is deleted. Source: OpenAI API description, FileExpirationAfter, 2026-08-21."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2592000)]


class CreateFile(RequestModel):
    """The text fields of ``POST /files``."""

    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    expires_after: ExpiresAfter | None = None


class CreateUpload(RequestModel):
    """``POST /uploads``."""

    filename: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    purpose: Literal["assistants", "batch", "fine-tune", "vision"]
    bytes: Annotated[int, Field(ge=0)]
    mime_type: Annotated[str, StringConstraints(max_length=256)]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(RequestModel):
    """``POST /uploads/{id}/complete``."""

    part_ids: Annotated[list[Text], Field(max_length=10000)]
    md5: Text | None = None


class Hyperparameters(BaseModel):
    """Hyperparameters of a job; names that are not here go to the trainer unchanged.

    Source: OpenAI API description, FineTune*Hyperparameters, 2026-08-21 (ranges of the first four, and of
    ``compute_multiplier``, ``eval_interval`` and ``eval_samples``). OpenAI does not have the others.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, str | bool | int | float | list[str]]

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto | None = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1e6)] | Auto = "auto"
    beta: Annotated[float, Field(gt=0, le=2)] | Auto | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto | None = None
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto | None = None
    lora_alpha: Annotated[int, Field(ge=1, le=4096)] | Auto | None = None
    lora_dropout: Annotated[float, Field(ge=0, le=0.9)] | Auto | None = None
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | Text | None = None
    max_length: Annotated[int, Field(ge=8)] | Auto | None = None
    precision: Literal["float32", "bfloat16"] | Auto | None = None
    quantization: Literal["none", "4bit", "8bit"] | Auto | None = None
    gradient_checkpointing: bool | Auto | None = None
    compute_multiplier: Annotated[float, Field(gt=0.00001, le=10)] | Auto | None = None
    eval_interval: Annotated[int, Field(ge=1)] | Auto | None = None
    eval_samples: Annotated[int, Field(ge=1)] | Auto | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | Auto | None = None


class MethodBlock(RequestModel):
    """The settings of one method."""

    hyperparameters: Hyperparameters | None = None


class ReinforcementBlock(MethodBlock):
    """The settings of reinforcement."""

    grader: dict[str, Any]
    response_format: dict[str, Any] | None = None


class MethodChoice(RequestModel):
    """The method of a job; only the block of its type is used."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: MethodBlock | None = None
    dpo: MethodBlock | None = None
    reinforcement: ReinforcementBlock | None = None


class Wandb(RequestModel):
    """A Weights and Biases project."""

    project: Text
    name: Text | None = None
    entity: Text | None = None
    tags: Annotated[list[Text], Field(max_length=100)] | None = None


class Integration(RequestModel):
    """An external service that gets the metrics."""

    type: Literal["wandb"]
    wandb: Wandb


class CreateJob(RequestModel):
    """``POST /fine_tuning/jobs``. Source: OpenAI API description, CreateFineTuningJobRequest, 2026-08-21."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    training_file: Text
    validation_file: Text | None = None
    hyperparameters: Hyperparameters | None = None
    method: MethodChoice | None = None
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Metadata | None = None
    serve_as: Annotated[str, StringConstraints(pattern=SERVE_AS_PATTERN)] | None = None
    """Not part of the OpenAI API: the base model's name in the tuned model's name, instead of the real one."""


class CreateBatch(RequestModel):
    """``POST /batches``. Source: OpenAI API description, createBatch, 2026-08-21."""

    input_file_id: Text
    endpoint: Text
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class UpdateCompletion(RequestModel):
    """``POST /chat/completions/{id}``. Source: OpenAI API description, updateChatCompletion, 2026-08-21."""

    metadata: Metadata | None


class CreatePermissions(RequestModel):
    """``POST /fine_tuning/checkpoints/{name}/permissions``."""

    project_ids: Annotated[list[Text], Field(min_length=1, max_length=100)]

    @field_validator("project_ids")
    @classmethod
    def _deduplicate(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(value))


Parsed = TypeVar("Parsed", bound=BaseModel)


def validate_body(model: type[Parsed], body: Mapping[str, Any], prefix: str = "") -> Parsed:
    """Validate a request body.

    Args:
        model: Its pydantic model.
        body: What the client sent.
        prefix: Put before the parameter's name in errors, for example ``grader.``.

    Raises:
        ApiError: 400 that names the first wrong parameter.
    """
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise _to_api_error(error["type"], error["loc"], error["msg"], prefix) from exc


def _to_api_error(kind: str, location: tuple[int | str, ...], text: str, prefix: str) -> ApiError:
    param = prefix + _dotted(location)
    if kind == "missing":
        return missing_parameter(param)
    if kind == "extra_forbidden":
        return bad_request(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return bad_request(f"Invalid '{param}': {text}.", param, code)


def _dotted(location: tuple[int | str, ...]) -> str:
    """``("messages", 2, "role")`` as ``messages[2].role``, without pydantic's names of union members."""
    name = ""
    for piece in location:
        if isinstance(piece, int):
            name += f"[{piece}]"
        elif piece.isidentifier() and not piece.endswith("Block") and piece not in _UNION_MEMBERS:
            name += f".{piece}" if name else piece
    return printable(name)


_UNION_MEMBERS = frozenset({"int", "float", "str", "bool", "constrained"})
