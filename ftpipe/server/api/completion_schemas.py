"""The body of ``POST /completions``: what is served, what is ignored and what is refused.

Source: OpenAI API description, CreateCompletionRequest, 2026-08-21.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, StringConstraints

from ftpipe.server.api.chat_schemas import MAX_TOKENS, StreamOptions, TokenId, unsupported_parameter
from ftpipe.server.api.schemas import RequestModel, Text, validate_body, without_ignored
from ftpipe.server.protocol import bad_request

Prompt: TypeAlias = str | tuple[int, ...]
"""A text or its token ids."""
DEFAULT_MAX_TOKENS = 16
MAX_CANDIDATES = 512
"""Answers of one request, whether they are returned or not: prompts times ``best_of``."""


class CompletionRequest(RequestModel):
    """``POST /completions``."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    prompt: Any
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    echo: bool | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[TokenId, Annotated[int, Field(ge=-100, le=100)]] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    """OpenAI takes four texts at most; tasks of lm-eval have more."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    # Not part of the OpenAI API, but of vLLM's and others'.
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None

    @property
    def candidates(self) -> int:
        """Answers that are generated for each prompt."""
        return max(self.n or 1, self.best_of or 1)

    @property
    def token_limit(self) -> int:
        """Maximum tokens of an answer."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def bias_by_token(self) -> dict[int, float]:
        """What is added to the logits of tokens, by token id."""
        return {int(id_): float(bias) for id_, bias in (self.logit_bias or {}).items()}

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        texts = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return tuple(text for text in texts if text)


def parse_completion(body: Mapping[str, Any]) -> tuple[CompletionRequest, list[Prompt]]:
    """Validate a request, and refuse what is not served.

    Returns:
        The request and its prompts.

    Raises:
        ApiError: 400.
    """
    request = validate_body(CompletionRequest, without_ignored(body))
    if request.suffix:
        raise unsupported_parameter("suffix")
    if request.best_of is not None and request.best_of < (request.n or 1):
        message = "'best_of' must be at least 'n'."
        raise bad_request(message, "best_of")
    if request.stream and request.candidates > (request.n or 1):
        message = "'best_of' above 'n' cannot be streamed: which answers are best is known at their end."
        raise bad_request(message, "best_of")
    if request.stream_options is not None and not request.stream:
        message = "'stream_options' needs 'stream' to be true."
        raise bad_request(message, "stream_options")
    prompts = _parse_prompts(request.prompt)
    if len(prompts) * request.candidates > MAX_CANDIDATES:
        message = f"A request can have {MAX_CANDIDATES} answers at most: prompts times 'n' or 'best_of'."
        raise bad_request(message, "prompt")
    return request, prompts


def _parse_prompts(value: Any) -> list[Prompt]:  # noqa: ANN401  # JSON
    """One prompt or several; ``None`` is an empty text, and whether that is a prompt depends on the model."""
    if value is None or isinstance(value, str):
        return [value or ""]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return list(value)
        if _are_ids(value):
            return [tuple(value)]
        if all(isinstance(each, list) and each and _are_ids(each) for each in value):
            return [tuple(each) for each in value]
    message = "Invalid 'prompt': expected a text, a list of texts, a list of token ids, or a list of such lists."
    raise bad_request(message, "prompt", "invalid_type")


def _are_ids(values: list[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
