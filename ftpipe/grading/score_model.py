"""What a ``score_model`` grader sends to its model, and how the reply becomes a score.

The model replies with one JSON object, ``{"result": 0.5}``; a model of this server cannot write anything else. OpenAI
asks for its ``steps`` besides, which are left out here, so that replies are short. A reply that is no score in the
grader's range is an error of the grader, and counts as the lowest score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftpipe.formatting import sanitize_line
from ftpipe.grading.grader_types import DEFAULT_SCORE_TOKENS, ScoreModel
from ftpipe.grading.json_values import parse_json

CUT_OFF_SCORE = re.compile(r'\s*\{\s*"result"\s*:\s*(-?\d{1,15}\.\d{3,})')
"""A reply that ended within the digits of its number: of 16 scores of SmolLM2-135M 3 were 1.000… (2026-11-29)."""
MAX_SHOWN_CHARACTERS = 120
"""Characters of a reply in an error message."""
SERVER_ERROR, REFUSAL_ERROR, PARSE_ERROR = (
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
)
"""Source: OpenAI API description, RunGraderResponse, 2026-08-21."""


@dataclass(frozen=True)
class ModelReply:
    """What the model of a grader has answered.

    Attributes:
        text: The answer.
        refusal: Why the model does not answer, in its own words.
        error: Why there is no answer; empty if there is one.
        model: The model that answered.
        prompt_tokens: Tokens that it read.
        completion_tokens: Tokens that it wrote.
    """

    text: str = ""
    refusal: str = ""
    error: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


AskModels = Callable[[Sequence[Mapping[str, Any]], Callable[[], None]], Sequence[ModelReply]]
"""Answers chats, in their order; the second argument is called while it waits, and ends the waiting by an error."""


def chat_request(grader: ScoreModel, render: Callable[[str], str]) -> dict[str, Any]:
    """The body of the chat that a grader sends; the same one gets the same reply, unless the grader has a temperature.

    Args:
        grader: The grader.
        render: Puts the values into a template.
    """
    low, high = grader.range
    result = {"type": "number", "minimum": low, "maximum": high}
    schema = {"type": "object", "properties": {"result": result}, "required": ["result"], "additionalProperties": False}
    chosen = grader.sampling_params
    sampling = {} if chosen is None else chosen.model_dump(exclude={"max_completions_tokens"}, exclude_none=True)
    return {
        "model": grader.model,
        "messages": [{"role": message.role, "content": render(message.template)} for message in grader.input],
        "response_format": {"type": "json_schema", "json_schema": {"name": "score", "strict": True, "schema": schema}},
        "max_completion_tokens": (chosen and chosen.max_completions_tokens) or DEFAULT_SCORE_TOKENS,
        **{"temperature": 0, "seed": 0, **sampling},
    }


def parse_score(grader: ScoreModel, reply: ModelReply) -> tuple[float, str, str]:
    """The score in a reply, the name of the error and what happened; both are empty if there is none."""
    low, high = grader.range
    if reply.error:
        return low, SERVER_ERROR, f"{grader.model} did not answer: {reply.error}"
    if reply.refusal:
        return low, REFUSAL_ERROR, f"{grader.model} refused: {sanitize_line(reply.refusal, MAX_SHOWN_CHARACTERS)}"
    value = parse_json(reply.text)
    score = value.get("result") if isinstance(value, dict) else None
    if cut_off := CUT_OFF_SCORE.fullmatch(reply.text):
        score = float(cut_off[1])
    if isinstance(score, bool) or not isinstance(score, int | float) or not low <= score <= high:
        shown = sanitize_line(reply.text, MAX_SHOWN_CHARACTERS)
        return low, PARSE_ERROR, f"{grader.model} answered {shown!r}, and not a result from {low:g} to {high:g}"
    return float(score), "", ""
