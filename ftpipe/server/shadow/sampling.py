"""Decide which chats are mirrored, and what is sent for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.server.api.schemas import RENAMED_PARAMETERS

MIRRORED_FIELDS = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias", "verbosity"),
        *("max_tokens", "max_completion_tokens", "functions", "function_call"),
        *("top_k", "min_p", "repetition_penalty", "chat_template_kwargs", *RENAMED_PARAMETERS),
    }
)
"""Fields of a chat that change its answer. Others are not mirrored: they say who wrote it, or can cost money."""
LIMITS = ("max_tokens", "max_completion_tokens")
MAX_PRICED_TOKENS = 4096
"""Completion tokens of a mirrored chat that costs money, if the caller set no limit."""
TOKENS_PER_MESSAGE = 16
"""Prompt tokens that a chat template adds to a message, at most."""


def mirrored_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is mirrored of a chat, without the model."""
    return {name: value for name, value in body.items() if name in MIRRORED_FIELDS and value is not None}


def digest(key: str, content: bytes) -> str:
    """The digest of a chat or an answer; without the server's key nobody can try out texts against it."""
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest()[:32]


def is_sampled(request_digest: str, share: float) -> bool:
    """Whether a chat is in the share; a chat that is in a share is in every larger one, too."""
    return int(request_digest[:13], 16) / 16**13 < share


def with_token_limit(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with a limit for completion tokens, so that their price has one; some hosts take -1 for none."""
    limits = [fields[name] for name in LIMITS if name in fields]
    if limits and all(type(limit) is int and limit > 0 for limit in limits):
        return dict(fields)
    others = {name: value for name, value in fields.items() if name not in LIMITS}
    return {**others, "max_completion_tokens": MAX_PRICED_TOKENS}


def is_text(fields: Mapping[str, Any]) -> bool:
    """Whether the messages are text alone; nobody knows before how many tokens an image or a file has."""
    contents = [message.get("content") for message in fields["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return all(content is None or isinstance(content, str | list) for content in contents) and all(
        part.get("type") in ("text", "refusal") for part in parts
    )


def highest_tokens(fields: Mapping[str, Any]) -> tuple[int, int]:
    """The most prompt and completion tokens of fields with a token limit: no token is shorter than a byte."""
    prompt = len(canonical_json(fields)) + TOKENS_PER_MESSAGE * len(fields["messages"])
    return prompt, max(fields[name] for name in LIMITS if name in fields)
