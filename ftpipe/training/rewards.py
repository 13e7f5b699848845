"""The rewards of sampled answers: the scores of the job's grader."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.formatting import sanitize_line
from ftpipe.grading.grader_types import GraderError
from ftpipe.grading.graders import (
    TYPES_OF_JOBS,
    GradingContext,
    MultiGrader,
    Reply,
    item_templates,
    parse_grader,
    parts_of,
    sources_of,
)
from ftpipe.grading.python_grader import OPTION, RUNTIME_ERROR, RunPython, SandboxError
from ftpipe.grading.score_model import PARSE_ERROR, REFUSAL_ERROR, SERVER_ERROR, AskModels, ModelReply
from ftpipe.inference.tool_call_parser import parse_tool_calls
from ftpipe.training.job_directory import GRADER_PARAM

FATAL_ERRORS = {
    "formula_parse_error": "its calculate_output has no value",
    "truncated_observation_error": "a text is longer than graders compare",
    "other_error": "a value is nested too deeply",
}
"""Errors of a grading that are not the answer's: the job fails instead of learning from a score of 0."""
MAX_FAILED_PART = 0.5
"""Part of the answers of one grading for which a model or code may give no score; more fail the job."""
MAX_SHOWN_ANSWER = 120
"""Characters of an answer in an error message."""
HINTS = {
    RUNTIME_ERROR: "correct the source; `POST /v1/fine_tuning/alpha/graders/run` tries it on one answer",
    SERVER_ERROR: "see that the model answers, for example with `ftpipe chat`, and create the job again",
    REFUSAL_ERROR: "change what the grader says to its model, or name another model",
    PARSE_ERROR: "let the grader's input say what `result` means, allow it more tokens "
    "(sampling_params.max_completions_tokens), or name another model",
}


class RewardError(FtpipeError):
    """A grader that gives an answer no usable reward."""

    code = "grader_error"


def _no_models(_bodies: Sequence[Mapping[str, Any]], _check_cancelled: Callable[[], None]) -> list[ModelReply]:
    message = "nothing answers the models of this grader"
    raise RewardError(message, "train at a server of `ftpipe serve`")


@dataclass
class GraderCounts:
    """What one grader did for a number of answers; ``failure`` is the first of its errors."""

    name: str
    type: str
    scores: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def metrics(self, rows: str, answers: int) -> dict[str, dict[str, float]]:
        """``scores``, ``errors`` and ``usage`` in the API's names, for ``train`` or ``valid`` rows."""
        result = {"scores": {f"{rows}_reward_mean": round(self.scores / answers, 5)}}
        names = {"score_model": (SERVER_ERROR, REFUSAL_ERROR, PARSE_ERROR), "python": (RUNTIME_ERROR,)}
        if self.type in names:
            result["errors"] = _mean_and_count(rows, {name: self.errors[name] for name in names[self.type]}, answers)
        if self.type == "score_model":
            tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
            result["usage"] = _mean_and_count(rows, tokens, answers)
        return result


def _mean_and_count(rows: str, counts: Mapping[str, int], answers: int) -> dict[str, float]:
    means = {f"{rows}_{name}_mean": round(count / answers, 5) for name, count in counts.items()}
    return {**means, **{f"{rows}_{name}_count": count for name, count in counts.items()}}


@dataclass(frozen=True)
class Grades:
    """The rewards of answers, and what each grader did; there is at least one answer.

    Attributes:
        rewards: In the order of the answers.
        graders: The parts of a multi grader; empty if only the reward itself is to be known.
    """

    rewards: list[float]
    graders: list[GraderCounts]

    def most_failing(self) -> GraderCounts | None:
        """The grader that gave most answers no score; ``None`` if none failed."""
        failing = [counts for counts in self.graders if counts.errors]
        return max(failing, key=lambda counts: counts.errors.total(), default=None)


def grader_metrics(rows: Mapping[str, Grades]) -> dict[str, Any]:
    """What graders did, as an event says it: ``{"scores": {"graders": [{"name": …}]}, "errors": …, "usage": …}``.

    Source: OpenAI's guide to reinforcement fine-tuning, "Training metrics", read 2026-11-29.

    Args:
        rows: ``train`` and ``valid``, as far as they were graded.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, grades in rows.items():
        for counts in grades.graders:
            for group, values in counts.metrics(kind, len(grades.rewards)).items():
                described = result.setdefault(group, {}).setdefault(counts.name, {})
                described.update({"name": counts.name, "type": counts.type, **values})
    return {group: {"graders": list(graders.values())} for group, graders in result.items()}


class RewardFunction:
    """Scores answers with a grader in OpenAI's JSON.

    Args:
        fields: The grader.
        ask: Asks models, for graders that do.
        run: Runs code, for graders that have some; ``None`` if that is not allowed.

    Raises:
        RewardError: It is not a grader that ftpipe runs.
    """

    def __init__(self, fields: Mapping[str, Any], ask: AskModels = _no_models, run: RunPython | None = None) -> None:
        try:
            self._grader = parse_grader(fields, GRADER_PARAM, types=TYPES_OF_JOBS)
        except GraderError as exc:
            raise RewardError(exc.message, exc.hint) from exc
        self._item_templates = item_templates(self._grader)
        self._ask, self._run = ask, run

    def missing_key(self, item: Mapping[str, Any]) -> str:
        """What the grader reads of a row and the row does not have, as ``item.answer``; empty if it has all."""
        for template in self._item_templates:
            context = GradingContext(item, "")
            context.render(template)
            if "invalid_variable_error" in context.errors:
                return template.strip("{} ")
        return ""

    def score(
        self, answers: Sequence[tuple[Mapping[str, Any], str]], check_cancelled: Callable[[], None] = lambda: None
    ) -> Grades:
        """The rewards of answers.

        Args:
            answers: The row that a prompt comes from, and the text of the answer; tool calls in it are parsed.
            check_cancelled: Called while models are asked; an error that it raises ends the waiting.

        Raises:
            RewardError: The grader fails, or a score is not a finite number.
        """
        contexts = [context_of_text(item, answer) for item, answer in answers]
        replies = self._replies(contexts, check_cancelled)
        parts = parts_of(self._grader)
        has_parts = isinstance(self._grader, MultiGrader) or any(replies)
        counts = {name: GraderCounts(name, part.type) for name, part in parts.items() if has_parts}
        rewards: list[float] = []
        for (_, answer), context, own in zip(answers, contexts, replies, strict=True):
            rewards.append(self._reward(context, own, answer))
            for name, one in counts.items():
                _count(one, context, own.get(name), context.scores.get(name, rewards[-1]))
        grades = Grades(rewards, list(counts.values()))
        _refuse_failing_grader(grades)
        return grades

    def _replies(
        self, contexts: Sequence[GradingContext], check_cancelled: Callable[[], None]
    ) -> list[dict[str, Reply]]:
        """What models and code say of each answer, by the names of the graders."""
        requests = [context.model_requests(self._grader) for context in contexts]
        bodies = [body for one in requests for body in one.values()]
        answers = iter(self._ask(bodies, check_cancelled) if bodies else ())
        replies: list[dict[str, Reply]] = [{name: next(answers) for name in one} for one in requests]
        for name, source in sources_of(self._grader).items():
            results = self._run_python(source, [context.python_call() for context in contexts], check_cancelled)
            for own, result in zip(replies, results, strict=True):
                own[name] = result
        return replies

    def _run_python(
        self, source: str, calls: Sequence[Mapping[str, Any]], check_cancelled: Callable[[], None]
    ) -> Sequence[Reply]:
        if self._run is None:
            raise RewardError(
                "a grader of type 'python' runs code, which this server does not allow", f"start it with {OPTION}"
            )
        try:
            return self._run(source, calls, check_cancelled)
        except SandboxError as exc:
            raise RewardError(exc.message, exc.hint) from exc

    def _reward(self, context: GradingContext, replies: Mapping[str, Reply], answer: str) -> float:
        reward = context.score(self._grader, replies)
        shown = sanitize_line(answer, MAX_SHOWN_ANSWER)
        for error in context.errors & FATAL_ERRORS.keys():
            raise RewardError(f"the grader failed for the answer {shown!r}: {FATAL_ERRORS[error]}", "change the grader")
        if not math.isfinite(reward):
            raise RewardError(f"the grader's score for the answer {shown!r} is {reward}", "change the grader")
        return reward


def _count(counts: GraderCounts, context: GradingContext, reply: Reply | None, score: float) -> None:
    counts.scores += score
    if isinstance(reply, ModelReply):
        counts.prompt_tokens += reply.prompt_tokens
        counts.completion_tokens += reply.completion_tokens
    if counts.name in context.part_errors:
        error, what_happened = context.part_errors[counts.name]
        counts.errors[error] += 1
        counts.failure = counts.failure or what_happened


def _refuse_failing_grader(grades: Grades) -> None:
    """Nothing is to be learnt from a grader that mostly fails."""
    counts = grades.most_failing()
    if counts is not None and counts.errors.total() > MAX_FAILED_PART * len(grades.rewards):
        (error, _), *_ = counts.errors.most_common(1)
        number = f"{counts.errors.total()} of {len(grades.rewards)} answers"
        message = f"the grader {counts.name!r} gave {number} no score: {counts.failure}"
        raise RewardError(message, HINTS[error])


def context_of_text(item: Mapping[str, Any], answer: str) -> GradingContext:
    """What a grader sees of the text of an answer, in which tool calls are parsed."""
    calls = parse_tool_calls(answer)
    return GradingContext(item, answer, calls[1] if calls else ())
