"""The fields of graders in OpenAI's JSON.

Source: OpenAI API description, GraderStringCheck, GraderTextSimilarity, GraderScoreModel, GraderPython and
GraderMulti, 2026-08-21.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from ftpipe.errors import UsageError
from ftpipe.grading.expression import MAX_CHARACTERS as MAX_EXPRESSION_CHARACTERS
from ftpipe.grading.text_similarity import MEASURES

MAX_CHARACTERS = 100_000
"""Characters that a grader compares; some measures take time proportional to the product of two lengths."""
MAX_MESSAGES = 64
"""Messages of a ``score_model`` grader."""
MAX_SOURCE_CHARACTERS = 256_000
"""Of a ``python`` grader. Source: OpenAI's guide to graders, 2026-08-21."""
MAX_SCORE_TOKENS = 4096
"""Most tokens that a ``score_model`` grader may let its model answer with."""
DEFAULT_SCORE_TOKENS = 64
"""The same if the grader does not say: enough for ``{"result": 0.5}`` in any tokenizer."""
_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}

Template = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]


class GraderFields(BaseModel):
    """The fields of a grader, as OpenAI's API takes them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class StringCheck(GraderFields):
    """Compares two texts."""

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    def compare(self, text: str, reference: str) -> float:
        """1 if the comparison holds, else 0."""
        return float(_OPERATIONS[self.operation](text, reference))


class TextSimilarity(GraderFields):
    """Measures how similar two texts are."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
        "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip

    def compare(self, text: str, reference: str) -> float:
        """The similarity, from 0 to 1."""
        return MEASURES[self.evaluation_metric](text, reference)


class InputText(BaseModel):
    """A text as a part of a message."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    type: Literal["input_text", "output_text", "text"]
    text: Template


class InputMessage(BaseModel):
    """A message to the model of a ``score_model`` grader; images and audio are not supported."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Template | InputText | Annotated[list[InputText | Template], Field(min_length=1, max_length=MAX_MESSAGES)]

    @property
    def template(self) -> str:
        """The message's text, with its templates."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "\n".join(part if isinstance(part, str) else part.text for part in parts)


class ScoreSampling(BaseModel):
    """How the model of a ``score_model`` grader answers; the names are those of the API description."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    seed: int | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_completions_tokens: Annotated[int, Field(ge=1, le=MAX_SCORE_TOKENS)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class ScoreModel(GraderFields):
    """Lets a model score the answer."""

    type: Literal["score_model"]
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    input: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    range: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    sampling_params: ScoreSampling | None = None

    @field_validator("range")
    @classmethod
    def _check_range(cls, value: list[float]) -> list[float]:
        if not all(map(math.isfinite, value)) or value[0] >= value[1]:
            message = "the second number must be greater than the first"
            raise ValueError(message)
        return value


class PythonGrader(GraderFields):
    """Lets a function of its own score the answer."""

    type: Literal["python"]
    source: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SOURCE_CHARACTERS)]
    image_tag: str | None = None
    """Of the packages at OpenAI; here it is not used."""


class Multi(GraderFields):
    """Combines graders by an expression; the guide has several graders by name."""

    type: Literal["multi"]
    graders: dict[str, Any]
    calculate_output: Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]

    def parts(self) -> dict[str, Any]:
        """The graders by name; the API description has a single one instead."""
        if isinstance(self.graders.get("type"), str):
            return {str(self.graders.get("name", "grader")): self.graders}
        return self.graders


class GraderError(UsageError):
    """A grader that is not valid or not supported.

    Args:
        param: The field, for example ``grader.calculate_output``.
        reason: What is wrong with it.
        is_supported: False for a grader that OpenAI knows and ftpipe does not run.
    """

    def __init__(self, param: str, reason: str, hint: str = "", *, is_supported: bool = True) -> None:
        super().__init__(f"{param}: {reason}", hint or "see OpenAI's guide to graders for the fields")
        self.param = param
        self.reason = reason
        self.is_supported = is_supported
