"""The JSON of ``/batches`` as types.

Source: OpenAI API description 2.3.0, Batch, 2026-08-21.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from ftpipe.server.api.objects import CachedTokens, ReasoningTokens


class BatchError(TypedDict):
    """What is wrong with a line of an input file."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(TypedDict):
    """Why a batch failed."""

    object: Literal["list"]
    data: list[BatchError]


class BatchRequestCounts(TypedDict):
    """How many requests of a batch have an answer."""

    total: int
    completed: int
    failed: int


class BatchUsage(TypedDict):
    """Tokens of a batch."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(TypedDict):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: NotRequired[str]
    errors: NotRequired[BatchErrors]
    input_file_id: str
    completion_window: Literal["24h"]
    status: Literal[
        "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: NotRequired[str]
    error_file_id: NotRequired[str]
    created_at: int
    in_progress_at: NotRequired[int]
    expires_at: int
    finalizing_at: NotRequired[int]
    cancelling_at: NotRequired[int]
    completed_at: NotRequired[int]
    failed_at: NotRequired[int]
    expired_at: NotRequired[int]
    cancelled_at: NotRequired[int]
    request_counts: BatchRequestCounts
    usage: NotRequired[BatchUsage]
    metadata: dict[str, str] | None
