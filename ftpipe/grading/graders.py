"""Graders in OpenAI's JSON: ``string_check``, ``text_similarity``, and ``multi`` over them.

One implementation for the server's grader endpoints and for ``ftpipe evaluate --grader``. A template such as
``{{item.answer}}`` names a key of the data's record (``item.expected`` is the expected answer);
``{{sample.output_text}}``, ``{{sample.output_json.key[0]}}`` and ``{{sample.output_tools[0].function.name}}`` name
parts of the model's answer. No grader runs code or calls a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from ftpipe.errors import UsageError
from ftpipe.grading.expression import FUNCTIONS, Expression, ExpressionError
from ftpipe.grading.expression import MAX_CHARACTERS as MAX_EXPRESSION_CHARACTERS
from ftpipe.grading.json_values import MISSING, comparable, parse_json
from ftpipe.grading.text_similarity import MEASURES
from ftpipe.records.evaluation import Answer, Item

MAX_CHARACTERS = 100_000
"""Characters that a grader compares; some measures take time proportional to the product of two lengths."""
MAX_COMPARED_CHARACTERS = 400_000
"""Characters that all measures of a multi grader compare together, in equal shares."""
MAX_RENDERED_CHARACTERS = 1_000_000
"""Characters of a template with its values; what is beyond is not rendered."""
MAX_GRADERS = 32
"""Graders in a multi grader."""
MAX_PATH_CHARACTERS = 200
_TEMPLATE = re.compile(r"\{\{([^{}]{1,300})\}\}")
_PATH = re.compile(r"(item|sample)((?:\.[^.\[\]]+|\[\d{1,6}\])+)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
_UNSUPPORTED = {
    "score_model": "it calls a model",
    "label_model": "it calls a model",
    "python": "it would run code",
}

Template = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]


class GraderFields(BaseModel):
    """The fields of a grader, as OpenAI's API takes them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class StringCheck(GraderFields):
    """Compares two texts. Source: OpenAI API description, GraderStringCheck, 2026-08-21."""

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    def compare(self, text: str, reference: str) -> float:
        """1 if the comparison holds, else 0."""
        return float(_OPERATIONS[self.operation](text, reference))


class TextSimilarity(GraderFields):
    """Measures how similar two texts are. Source: the same, GraderTextSimilarity."""

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


class Multi(GraderFields):
    """Combines graders by an expression. Source: the same, GraderMulti; the guide has several graders by name."""

    type: Literal["multi"]
    graders: dict[str, Any]
    calculate_output: Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]

    def parts(self) -> dict[str, Any]:
        """The graders by name; the API description has a single one instead."""
        if isinstance(self.graders.get("type"), str):
            return {str(self.graders.get("name", "grader")): self.graders}
        return self.graders


@dataclass(frozen=True)
class MultiGrader:
    """A multi grader whose parts and expression are parsed."""

    type: Literal["multi"]
    name: str
    parts: Mapping[str, StringCheck | TextSimilarity]
    expression: Expression


Grader = StringCheck | TextSimilarity | MultiGrader
Validate = Callable[[type[GraderFields], Mapping[str, Any], str], GraderFields]

GRADER_TYPES: dict[str, type[GraderFields]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "multi": Multi,
}


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


def validate_fields(model: type[GraderFields], fields: Mapping[str, Any], path: str) -> GraderFields:
    """Validate the fields of a grader in a file: the name is optional, and other keys are ignored.

    Raises:
        GraderError: A field is missing or wrong.
    """
    try:
        return model.model_validate({"name": path, **{key: fields[key] for key in fields.keys() & model.model_fields}})
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        param = ".".join([path, *(str(part) for part in error["loc"])])
        raise GraderError(param, error["msg"]) from exc


def parse_grader(fields: Mapping[str, Any], path: str = "grader", *, validate: Validate = validate_fields) -> Grader:
    """A grader from OpenAI's JSON.

    Args:
        fields: The grader.
        path: Its name in errors.
        validate: Validates the fields of one grader.

    Raises:
        GraderError: A field is missing or wrong, or ftpipe does not run this grader.
    """
    kind = fields.get("type")
    if isinstance(kind, str) and kind in _UNSUPPORTED:
        reason = f"a grader of type {kind!r} is not supported: {_UNSUPPORTED[kind]}"
        hint = "use --judge MODEL" if kind != "python" else f"supported types: {', '.join(GRADER_TYPES)}"
        raise GraderError(f"{path}.type", reason, hint, is_supported=False)
    if not isinstance(kind, str) or kind not in GRADER_TYPES:
        raise GraderError(f"{path}.type", f"expected one of {', '.join(GRADER_TYPES)}")
    grader = validate(GRADER_TYPES[kind], fields, path)
    if isinstance(grader, Multi):
        return _parse_multi(grader, path, validate)
    if isinstance(grader, TextSimilarity) and grader.evaluation_metric not in MEASURES:
        reason = f"the measure {grader.evaluation_metric!r} is not supported"
        hint = f"supported measures: {', '.join(MEASURES)}"
        raise GraderError(f"{path}.evaluation_metric", reason, hint, is_supported=False)
    return grader  # type: ignore[return-value]  # of one of the two other types


def _parse_multi(multi: Multi, path: str, validate: Validate) -> MultiGrader:
    fields = multi.parts()
    if not 1 <= len(fields) <= MAX_GRADERS:
        raise GraderError(f"{path}.graders", f"expected 1 to {MAX_GRADERS} graders by name")
    parts = {}
    for name, part in fields.items():
        part_path = f"{path}.graders.{''.join(char if char.isprintable() else '?' for char in name)[:100]}"
        grader = parse_grader(part, part_path, validate=validate) if isinstance(part, Mapping) else None
        if grader is None or isinstance(grader, MultiGrader):
            raise GraderError(part_path, "expected a grader that is not 'multi'")
        parts[name] = grader
    param, allowed = (
        f"{path}.calculate_output",
        f"use numbers, the graders' names, + - * / ** and {', '.join(FUNCTIONS)}",
    )
    try:
        expression = Expression(multi.calculate_output)
    except ExpressionError as exc:
        raise GraderError(param, exc.message, allowed) from exc
    if unknown := expression.names - set(parts):
        raise GraderError(param, f"no grader has the name {min(unknown)!r}", allowed)
    return MultiGrader("multi", multi.name, parts, expression)


def item_templates(grader: Grader) -> list[str]:
    """The templates such as ``{{item.answer}}`` that a grader reads the data's record with."""
    parts = grader.parts.values() if isinstance(grader, MultiGrader) else [grader]
    texts = [text for part in parts for text in (part.input, part.reference)]
    found = [match for text in texts for match in _TEMPLATE.finditer(text)]
    return list(dict.fromkeys(match[0] for match in found if match[1].strip().startswith("item")))


class GradingContext:
    """Grades one answer of a model.

    Args:
        item: The record that templates know as ``item``.
        output_text: The answer.
        output_tools: Its tool calls, in OpenAI's form.

    Attributes:
        scores: The score of each part of a multi grader.
        errors: Names of what went wrong, as in OpenAI's grader results.
    """

    def __init__(
        self, item: Mapping[str, Any], output_text: str, output_tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.scores: dict[str, float] = {}
        self.errors: set[str] = set()
        self._item = item
        self._output_text = output_text
        self._output_tools = list(output_tools)

    def score(self, grader: Grader) -> float:
        """The grader's score; 0 for an expression without a value."""
        if not isinstance(grader, MultiGrader):
            return self._score_one(grader, MAX_CHARACTERS)
        measures = sum(isinstance(part, TextSimilarity) for part in grader.parts.values())
        limit = min(MAX_CHARACTERS, MAX_COMPARED_CHARACTERS // max(1, measures))
        self.scores = {name: self._score_one(part, limit) for name, part in grader.parts.items()}
        try:
            return grader.expression.evaluate(self.scores)
        except ExpressionError:
            self.errors.add("formula_parse_error")
            return 0.0

    def _score_one(self, grader: StringCheck | TextSimilarity, max_characters: int) -> float:
        if isinstance(grader, StringCheck):
            return grader.compare(self.render(grader.input), self.render(grader.reference))
        return grader.compare(
            self.render(grader.input, max_characters=max_characters),
            self.render(grader.reference, max_characters=max_characters),
        )

    def render(self, template: str, *, max_characters: int = MAX_RENDERED_CHARACTERS) -> str:
        """A template with its values; an unknown one is empty and an error. Values are not rendered again.

        A text that is longer than ``max_characters`` is cut, which is an error, too.
        """
        pieces: list[str] = []
        length = end = 0
        for match in _TEMPLATE.finditer(template):
            path = match[1].strip()
            if not path or len(path) > MAX_PATH_CHARACTERS:
                continue
            pieces += [template[end : match.start()], self._text_of(path)]
            length += len(pieces[-2]) + len(pieces[-1])
            end = match.end()
            if length > max_characters:
                break
        else:
            pieces.append(template[end:])
        text = "".join(pieces)
        if len(text) > max_characters:
            self.errors.add("truncated_observation_error")
        return text[:max_characters]

    def _text_of(self, path: str) -> str:
        match = _PATH.fullmatch(path)
        value = self._lookup(match[1], match[2]) if match else MISSING
        if value is MISSING:
            self.errors.add("invalid_variable_error")
            return ""
        try:
            return value if isinstance(value, str) else comparable(value)
        except RecursionError:
            self.errors.add("other_error")
            return ""

    def _lookup(self, root: str, steps: str) -> Any:  # noqa: ANN401  # any JSON value
        value: Any = self._item if root == "item" else self
        for name, index in _STEP.findall(steps):
            if value is self:
                value = self._sample_part(name)
            elif name and isinstance(value, Mapping) and name in value:
                value = value[name]
            elif index and isinstance(value, list) and int(index) < len(value):
                value = value[int(index)]
            else:
                return MISSING
        return value

    def _sample_part(self, name: str) -> Any:  # noqa: ANN401  # any JSON value
        if name == "output_json":
            return self._output_json
        return {"output_text": self._output_text, "output_tools": self._output_tools}.get(name, MISSING)

    @cached_property
    def _output_json(self) -> Any:  # noqa: ANN401  # any JSON value
        value = parse_json(self._output_text)
        if value is MISSING:
            self.errors.add("sample_parse_error")
        return value


def grader_metric(fields: Mapping[str, Any]) -> Callable[[Item, Answer], float]:
    """A metric from a grader in OpenAI's JSON; its score is limited to 0 to 1.

    Raises:
        GraderError: A field is missing or wrong, or ftpipe does not run this grader.
    """
    grader = parse_grader(fields)

    def graded(item: Item, answer: Answer) -> float:
        """Score of the given grader, between 0 and 1."""
        score = context_of(item, answer).score(grader)
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0

    return graded


def context_of(item: Item, answer: Answer) -> GradingContext:
    """What a grader sees of an evaluation's item and answer."""
    record = {**item.fields, "messages": list(item.messages), "expected": item.expected}
    tools = [{"function": {"name": call.name, "arguments": call.arguments}} for call in answer.tool_calls]
    return GradingContext(record, answer.text, tools)
