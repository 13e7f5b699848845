"""Graders: run and validate, for the kinds that need no remote model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from ftpipe.grading.expression import ExpressionError, evaluate, variable_names
from ftpipe.grading.text_similarity import MEASURES
from ftpipe.server.api.schemas import RequestModel, validate_body
from ftpipe.server.protocol import ApiRequest, bad_request, printable

MAX_TEXT = 100_000
"""Characters that a grader compares; some measures take time in the product of two lengths."""
MAX_GRADERS = 32
_FIELD = re.compile(r"\{\{\s*([^{}]{1,200}?)\s*\}\}")
_FLAGS = (
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
)
_DETAILS = (
    "python_grader_server_error_type",
    "python_grader_runtime_error_details",
    "model_grader_server_error_details",
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Template = Annotated[str, StringConstraints(max_length=MAX_TEXT)]


class StringCheck(RequestModel):
    """Compares two texts. Source: OpenAI API description, GraderStringCheck, 2026-08-21."""

    type: Literal["string_check"]
    name: Name
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(RequestModel):
    """Measures how alike two texts are. Source: the same, GraderTextSimilarity."""

    type: Literal["text_similarity"]
    name: Name
    input: Template
    reference: Template
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
        "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip


class Multi(RequestModel):
    """Combines graders by a formula. Source: the same, GraderMulti; the guide has a map of graders."""

    type: Literal["multi"]
    name: Name
    graders: dict[str, Any]
    calculate_output: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class RunRequest(RequestModel):
    """``POST /fine_tuning/alpha/graders/run``."""

    grader: dict[str, Any]
    model_sample: Template
    item: dict[str, Any] | None = None


class ValidateRequest(RequestModel):
    """``POST /fine_tuning/alpha/graders/validate``."""

    grader: dict[str, Any]


KINDS: dict[str, type[StringCheck | TextSimilarity | Multi]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "multi": Multi,
}
_UNSUPPORTED = {
    "score_model": "it asks a remote model",
    "label_model": "it asks a remote model",
    "python": "it would run code from the request",
}

Grader = StringCheck | TextSimilarity | Multi


class GradersApi:
    """The handlers of ``/fine_tuning/alpha/graders``."""

    def validate(self, call: ApiRequest) -> Mapping[str, Any]:
        """Check a grader and give it back."""
        asked = validate_body(ValidateRequest, call.body)
        read_grader(asked.grader, "grader")
        return {"grader": asked.grader}

    def run(self, call: ApiRequest) -> Mapping[str, Any]:
        """Grade one sample."""
        asked = validate_body(RunRequest, call.body)
        grader = read_grader(asked.grader, "grader")
        began = time.perf_counter()
        grading = GradingContext(asked.model_sample, asked.item or {})
        reward = grading.score(grader)
        return _run_object(grader, reward, grading, time.perf_counter() - began)


def read_grader(given: Mapping[str, Any], where: str) -> Grader:
    """A grader from a request.

    Raises:
        ApiError: 400 that says which field is wrong, or why this kind is not served.
    """
    kind = given.get("type")
    if isinstance(kind, str) and kind in _UNSUPPORTED:
        message = f"Graders of type '{kind}' are not served here: {_UNSUPPORTED[kind]}."
        raise bad_request(message, f"{where}.type", "unsupported_grader")
    if not isinstance(kind, str) or kind not in KINDS:
        message = f"Invalid '{where}.type': expected one of {', '.join(KINDS)}."
        raise bad_request(message, f"{where}.type")
    grader = validate_body(KINDS[kind], given, f"{where}.")
    if isinstance(grader, TextSimilarity) and grader.evaluation_metric not in MEASURES:
        message = f"The measure '{grader.evaluation_metric}' is not served here."
        raise bad_request(message, f"{where}.evaluation_metric", "unsupported_grader")
    if isinstance(grader, Multi):
        _check_multi(grader, where)
    return grader


def _check_multi(multi: Multi, where: str) -> None:
    parts = _subgraders(multi)
    if not 1 <= len(parts) <= MAX_GRADERS:
        message = f"Invalid '{where}.graders': from 1 to {MAX_GRADERS} are taken."
        raise bad_request(message, f"{where}.graders")
    for name, part in parts.items():
        place = f"{where}.graders.{printable(name)}"
        if not isinstance(part, dict) or part.get("type") == "multi":
            message = f"Invalid '{place}': expected a grader that is not 'multi'."
            raise bad_request(message, place)
        read_grader(part, place)
    try:
        unknown = variable_names(multi.calculate_output) - set(parts)
    except ExpressionError as exc:
        message = f"Invalid '{where}.calculate_output': {exc.message}."
        raise bad_request(message, f"{where}.calculate_output") from exc
    if unknown:
        message = f"Invalid '{where}.calculate_output': no grader is called '{printable(min(unknown))}'."
        raise bad_request(message, f"{where}.calculate_output")


def _subgraders(multi: Multi) -> dict[str, Any]:
    """The graders by name; the API description has a single one in place of the map."""
    if isinstance(multi.graders.get("type"), str):
        return {str(multi.graders.get("name", "grader")): multi.graders}
    return multi.graders


class GradingContext:
    """Grades one sample, and remembers what went wrong.

    Args:
        sample: The model's output.
        item: The row that it belongs to.
    """

    def __init__(self, sample: str, item: Mapping[str, Any]) -> None:
        self.errors: set[str] = set()
        self.scores: dict[str, float] = {}
        self._sample = sample
        self._item = item

    def score(self, grader: Grader) -> float:
        """The grader's score; what cannot be graded scores 0."""
        if isinstance(grader, Multi):
            self.scores = {name: self._score_part(part, name) for name, part in _subgraders(grader).items()}
            try:
                return evaluate(grader.calculate_output, self.scores)
            except ExpressionError:
                self.errors.add("formula_parse_error")
                return 0.0
        text, reference = self._render(grader.input), self._render(grader.reference)
        if isinstance(grader, StringCheck):
            return float(_CHECKS[grader.operation](text, reference))
        return MEASURES[grader.evaluation_metric](text[:MAX_TEXT], reference[:MAX_TEXT])

    def _score_part(self, part: Mapping[str, Any], name: str) -> float:
        return self.score(read_grader(part, f"grader.graders.{name}"))

    def _render(self, template: str) -> str:
        return _FIELD.sub(lambda found: self._value(found[1]), template)

    def _value(self, path: str) -> str:
        """The text of ``item.a.b`` or ``sample.output_text``; an unknown one is noted and empty."""
        root, *steps = path.split(".")
        value: Any = {"item": self._item, "sample": _Sample(self)}.get(root)
        for step in steps:
            value = value.get(step) if isinstance(value, Mapping | _Sample) else None
        if value is None:
            self.errors.add("invalid_variable_error")
            return ""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def sample_part(self, name: str) -> object:
        """``output_text`` or ``output_json`` of the sample."""
        if name == "output_text":
            return self._sample
        if name != "output_json":
            return None
        try:
            return json.loads(self._sample)
        except (ValueError, RecursionError):
            self.errors.add("sample_parse_error")
            return None


class _Sample:
    """The sample as templates see it; its JSON is only read when it is asked for."""

    def __init__(self, grading: GradingContext) -> None:
        self._grading = grading

    def get(self, name: str) -> object:
        """A part of the sample."""
        return self._grading.sample_part(name)


_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.lower() in text.lower(),
}


def _run_object(grader: Grader, reward: float, grading: GradingContext, seconds: float) -> dict[str, Any]:
    errors: dict[str, Any] = {name: name in grading.errors for name in _FLAGS}
    errors |= dict.fromkeys(_DETAILS)
    return {
        "reward": reward,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": errors,
            "execution_time": seconds,
            "scores": grading.scores,
            "token_usage": None,
            "sampled_model_name": None,
        },
        "sub_rewards": grading.scores,
        "model_grader_token_usage_per_model": {},
    }
