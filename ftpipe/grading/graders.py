"""Graders in OpenAI's JSON: ``string_check``, ``text_similarity``, ``score_model``, ``python``, and ``multi``.

One implementation for the server's grader endpoints, reinforcement, and ``ftpipe evaluate --grader``. A template such
as ``{{item.answer}}`` names a key of the data's record (``item.expected`` is the expected answer);
``{{sample.output_text}}``, ``{{sample.output_json.key[0]}}`` and ``{{sample.output_tools[0].function.name}}`` name
parts of the model's answer. Nothing here calls a model or runs code: ``model_requests`` and ``python_call`` have what
is to be computed elsewhere, and ``score`` takes the replies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

from pydantic import ValidationError

from ftpipe.grading.expression import FUNCTIONS, Expression, ExpressionError
from ftpipe.grading.grader_types import (
    MAX_CHARACTERS,
    GraderError,
    GraderFields,
    Multi,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from ftpipe.grading.json_values import MISSING, comparable, parse_json
from ftpipe.grading.python_grader import RUNTIME_ERROR, PythonResult
from ftpipe.grading.score_model import ModelReply, chat_request, parse_score
from ftpipe.grading.text_similarity import MEASURES
from ftpipe.records.evaluation import Answer, Item

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
UNSUPPORTED = {
    "score_model": "it calls a model",
    "label_model": "it calls a model",
    "python": "it would run code",
}
"""Type → why it is refused if it is not among those that can be run."""

Part = StringCheck | TextSimilarity | ScoreModel | PythonGrader
Reply = ModelReply | PythonResult
"""What was computed elsewhere for a part."""


@dataclass(frozen=True)
class MultiGrader:
    """A multi grader whose parts and expression are parsed."""

    type: Literal["multi"]
    name: str
    parts: Mapping[str, Part]
    expression: Expression


Grader = Part | MultiGrader
Validate = Callable[[type[GraderFields], Mapping[str, Any], str], GraderFields]

GRADER_TYPES: dict[str, type[GraderFields]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "multi": Multi,
}
"""Types that compare texts, which run everywhere."""
TYPES_OF_JOBS: dict[str, type[GraderFields]] = {**GRADER_TYPES, "score_model": ScoreModel, "python": PythonGrader}
"""Types of the graders of reinforcement, which ask a model or run code, too."""


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


def parse_grader(
    fields: Mapping[str, Any],
    path: str = "grader",
    *,
    validate: Validate = validate_fields,
    types: Mapping[str, type[GraderFields]] = GRADER_TYPES,
    unsupported: Mapping[str, str] = UNSUPPORTED,
) -> Grader:
    """A grader from OpenAI's JSON.

    Args:
        fields: The grader.
        path: Its name in errors.
        validate: Validates the fields of one grader.
        types: The types that can be run.
        unsupported: Why others cannot.

    Raises:
        GraderError: A field is missing or wrong, or ftpipe does not run this grader.
    """
    kind = fields.get("type")
    if isinstance(kind, str) and kind in unsupported and kind not in types:
        reason = f"a grader of type {kind!r} is not supported: {unsupported[kind]}"
        hint = "use --judge MODEL" if kind == "score_model" else f"supported types: {', '.join(types)}"
        raise GraderError(f"{path}.type", reason, hint, is_supported=False)
    if not isinstance(kind, str) or kind not in types:
        raise GraderError(f"{path}.type", f"expected one of {', '.join(types)}")
    grader = validate(types[kind], fields, path)
    if isinstance(grader, Multi):
        return _parse_multi(
            grader, path, partial(parse_grader, validate=validate, types=types, unsupported=unsupported)
        )
    if isinstance(grader, TextSimilarity) and grader.evaluation_metric not in MEASURES:
        reason = f"the measure {grader.evaluation_metric!r} is not supported"
        hint = f"supported measures: {', '.join(MEASURES)}"
        raise GraderError(f"{path}.evaluation_metric", reason, hint, is_supported=False)
    return grader  # type: ignore[return-value]  # of one of the other types


def _parse_multi(multi: Multi, path: str, parse: Callable[[Mapping[str, Any], str], Grader]) -> MultiGrader:
    fields = multi.parts()
    if not 1 <= len(fields) <= MAX_GRADERS:
        raise GraderError(f"{path}.graders", f"expected 1 to {MAX_GRADERS} graders by name")
    parts = {}
    for name, part in fields.items():
        part_path = f"{path}.graders.{''.join(char if char.isprintable() else '?' for char in name)[:100]}"
        grader = parse(part, part_path) if isinstance(part, Mapping) else None
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


def parts_of(grader: Grader) -> Mapping[str, Part]:
    """The graders that score, by name; all but ``multi`` have one, themselves."""
    return grader.parts if isinstance(grader, MultiGrader) else {grader.name: grader}


def sources_of(grader: Grader) -> dict[str, str]:
    """The sources of the graders that run code, by their names."""
    return {name: part.source for name, part in parts_of(grader).items() if isinstance(part, PythonGrader)}


def models_of(grader: Grader) -> list[str]:
    """The names of the models that a grader asks."""
    return list(dict.fromkeys(part.model for part in parts_of(grader).values() if isinstance(part, ScoreModel)))


def item_templates(grader: Grader) -> list[str]:
    """The templates such as ``{{item.answer}}`` that a grader reads the data's record with."""
    texts = [text for part in parts_of(grader).values() for text in _texts(part)]
    found = [match for text in texts for match in _TEMPLATE.finditer(text)]
    return list(dict.fromkeys(match[0] for match in found if match[1].strip().startswith("item")))


def _texts(part: Part) -> list[str]:
    if isinstance(part, ScoreModel):
        return [message.template for message in part.input]
    return [] if isinstance(part, PythonGrader) else [part.input, part.reference]


class GradingContext:
    """Grades one answer of a model.

    Args:
        item: The record that templates know as ``item``.
        output_text: The answer.
        output_tools: Its tool calls, in OpenAI's form.

    Attributes:
        scores: The score of each part of a multi grader.
        errors: Names of what went wrong, as in OpenAI's grader results.
        part_errors: The same of the parts that ask a model or run code, with what happened; their score is the lowest.
    """

    def __init__(
        self, item: Mapping[str, Any], output_text: str, output_tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.scores: dict[str, float] = {}
        self.errors: set[str] = set()
        self.part_errors: dict[str, tuple[str, str]] = {}
        self._item = item
        self._output_text = output_text
        self._output_tools = list(output_tools)

    def model_requests(self, grader: Grader) -> dict[str, dict[str, Any]]:
        """What is to be sent to models: the bodies of chats, by the names of the graders."""
        asking = {name: part for name, part in parts_of(grader).items() if isinstance(part, ScoreModel)}
        return {name: chat_request(part, self.render) for name, part in asking.items()}

    def python_call(self) -> dict[str, Any]:
        """What the source of a grader is called with."""
        message = {"role": "assistant", "content": self._output_text, "tool_calls": self._output_tools or None}
        value = parse_json(self._output_text)
        sample = {
            "choices": [{"index": 0, "message": message}],
            "output_text": self._output_text,
            "output_json": None if value is MISSING else value,
            "output_tools": self._output_tools,
        }
        return {"sample": sample, "item": dict(self._item)}

    def score(self, grader: Grader, replies: Mapping[str, Reply] | None = None) -> float:
        """The grader's score; 0 for an expression without a value.

        Args:
            grader: The grader.
            replies: What models replied to ``model_requests``, and code to ``python_call``.
        """
        replies = replies or {}
        if not isinstance(grader, MultiGrader):
            return self._score_one(grader.name, grader, MAX_CHARACTERS, replies)
        measures = sum(isinstance(part, TextSimilarity) for part in grader.parts.values())
        limit = min(MAX_CHARACTERS, MAX_COMPARED_CHARACTERS // max(1, measures))
        self.scores = {name: self._score_one(name, part, limit, replies) for name, part in grader.parts.items()}
        try:
            return grader.expression.evaluate(self.scores)
        except ExpressionError:
            self.errors.add("formula_parse_error")
            return 0.0

    def _score_one(self, name: str, grader: Part, max_characters: int, replies: Mapping[str, Reply]) -> float:
        if isinstance(grader, ScoreModel | PythonGrader):
            score, error, details = _computed_score(grader, replies[name])
            if error:
                self.errors.add(error)
                self.part_errors[name] = (error, details)
            return score
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


def _computed_score(grader: ScoreModel | PythonGrader, reply: Reply) -> tuple[float, str, str]:
    """The score of a part that was computed elsewhere, the name of the error and what happened."""
    if isinstance(grader, ScoreModel) and isinstance(reply, ModelReply):
        return parse_score(grader, reply)
    if isinstance(grader, PythonGrader) and isinstance(reply, PythonResult):
        return reply.score, RUNTIME_ERROR if reply.error else "", reply.error
    raise TypeError(type(reply).__name__)


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
