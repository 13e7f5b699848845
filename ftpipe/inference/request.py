"""What is to be generated: a conversation or a text, and how tokens are sampled; can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ftpipe.errors import UsageError

Priority: TypeAlias = Literal["interactive", "batch"]
"""``interactive``: somebody waits for the answer. ``batch``: it can wait, as in evaluations and mirrored chats."""


class ContextLengthError(UsageError):
    """The conversation fills the model's context, so there is no room for an answer."""

    code = "context_length_exceeded"


class LogitBiasError(UsageError):
    """A bias for a token that the model does not have."""

    code = "invalid_logit_bias"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are sampled.

    Penalties and biases come first, then the grammar, then temperature, ``min_p``, ``top_k`` and ``top_p``.

    Attributes:
        temperature: 0 takes the most probable token each time.
        top_p: Probability mass to sample from, above 0 to 1.
        top_k: Number of the most probable tokens to sample from; 0 for all.
        min_p: Minimum probability of a token, relative to that of the most probable one, 0 to 1.
        seed: The same seed gives the same answer; ``None`` for a random one.
        frequency_penalty: Subtracted from a token's logit for each time that it was sampled, -2 to 2.
        presence_penalty: Subtracted from the logit of a token that was sampled before, -2 to 2.
        repetition_penalty: Divides the logit, if it is positive, of a token of the prompt or the answer so far, and
            multiplies it otherwise; above 0, 1 for none.
        logit_bias: Added to the logits of these ids; -100 excludes a token, 100 forces it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(SamplingParams):
    """A conversation to answer, or a text to continue, with sampling parameters.

    Attributes:
        messages: The conversation in the API's form.
        prompt: A text to continue, or its token ids, instead of a conversation. Unlike in messages, the names of
            special tokens in the text become these tokens.
        owner: Who asks; owners share the model fairly.
        priority: Whether somebody waits for the answer.
        tools: Tool definitions in the API's form.
        chat_template_kwargs: Variables for the chat template, such as ``enable_thinking``.
        max_tokens: Maximum tokens of the answer; ``None`` for the engine's limit. With 0 the prompt's tokens are
            counted, and nothing is computed.
        stop: Strings that end the answer; they are not part of it.
        grammar: Grammar that the answer must follow, from ``constrained_decoding``; ``None`` for free text.
        logprobs: Number of alternatives that are given with each token's log-probability; ``None`` for no
            log-probabilities.
        prompt_logprobs: The same for the tokens of the prompt, which the first piece of the answer has; the first token
            has no log-probability.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str | tuple[int, ...] | None = None
    owner: str = ""
    priority: Priority = "interactive"
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
