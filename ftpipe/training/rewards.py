"""The reward of a sampled answer: the score of the job's grader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.formatting import sanitize_line
from ftpipe.grading.graders import GraderError, GradingContext, item_templates, parse_grader
from ftpipe.inference.tool_call_parser import parse_tool_calls
from ftpipe.training.job_directory import GRADER_PARAM

FATAL_ERRORS = {
    "formula_parse_error": "its calculate_output has no value",
    "truncated_observation_error": "a text is longer than graders compare",
    "other_error": "a value is nested too deeply",
}
"""Errors of a grading that are not the answer's: the job fails instead of learning from a score of 0."""
MAX_SHOWN_ANSWER = 120
"""Characters of an answer in an error message."""


class RewardError(FtpipeError):
    """A grader that gives an answer no usable reward."""

    code = "grader_error"


class RewardFunction:
    """Scores answers with a grader in OpenAI's JSON.

    Args:
        fields: The grader.

    Raises:
        RewardError: It is not a grader that ftpipe runs.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        try:
            self._grader = parse_grader(fields, GRADER_PARAM)
        except GraderError as exc:
            raise RewardError(exc.message, exc.hint) from exc
        self._item_templates = item_templates(self._grader)

    def missing_key(self, item: Mapping[str, Any]) -> str:
        """What the grader reads of a row and the row does not have, as ``item.answer``; empty if it has all."""
        for template in self._item_templates:
            context = GradingContext(item, "")
            context.render(template)
            if "invalid_variable_error" in context.errors:
                return template.strip("{} ")
        return ""

    def score(self, item: Mapping[str, Any], answer: str) -> float:
        """The reward of an answer.

        Args:
            item: The row that the prompt comes from.
            answer: The answer's text; tool calls in it are parsed.

        Raises:
            RewardError: The grader fails, or its score is not a finite number.
        """
        calls = parse_tool_calls(answer)
        context = GradingContext(item, answer, calls[1] if calls else ())
        reward = context.score(self._grader)
        shown = sanitize_line(answer, MAX_SHOWN_ANSWER)
        for error in context.errors & FATAL_ERRORS.keys():
            raise RewardError(f"the grader failed for the answer {shown!r}: {FATAL_ERRORS[error]}", "change the grader")
        if not math.isfinite(reward):
            raise RewardError(f"the grader's score for the answer {shown!r} is {reward}", "change the grader")
        return reward
