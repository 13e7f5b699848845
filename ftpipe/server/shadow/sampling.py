"""Decide which chats are mirrored, and what is sent for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from ftpipe.canonical_json import canonical_json

LEFT_OUT = (
    *("model", "n", "stream", "stream_options", "logprobs", "top_logprobs"),
    *("store", "metadata", "user", "safety_identifier", "prompt_cache_key", "service_tier"),
)
"""Fields that a mirrored chat does not have: what does not change the first answer, or says who wrote it."""
MAX_PRICED_TOKENS = 4096
"""Completion tokens of a mirrored chat that costs money, if the caller set no limit."""
TOKENS_PER_MESSAGE = 16
"""Prompt tokens that a chat template adds to a message, at most."""


def mirrored_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is mirrored of a chat, without the model."""
    return {name: value for name, value in body.items() if name not in LEFT_OUT and value is not None}


def digest(key: str, content: bytes) -> str:
    """The digest of a chat or an answer; without the server's key nobody can try out texts against it."""
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest()[:32]


def is_sampled(request_digest: str, share: float) -> bool:
    """Whether a chat is in the share; a chat that is in a share is in every larger one, too."""
    return int(request_digest[:13], 16) / 16**13 < share


def with_token_limit(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with a limit for completion tokens, so that their price has one."""
    if fields.get("max_completion_tokens") or fields.get("max_tokens"):
        return dict(fields)
    return {**fields, "max_completion_tokens": MAX_PRICED_TOKENS}


def highest_tokens(fields: Mapping[str, Any]) -> tuple[int, int]:
    """The most prompt and completion tokens of fields with a token limit: no token is shorter than a byte."""
    prompt = len(canonical_json(fields)) + TOKENS_PER_MESSAGE * len(fields["messages"])
    return prompt, int(fields.get("max_completion_tokens") or fields["max_tokens"])
