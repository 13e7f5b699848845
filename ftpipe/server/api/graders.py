"""``/fine_tuning/alpha/graders``: run and validate graders."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ftpipe.grading.grader_types import GraderError, ScoreModel, Template
from ftpipe.grading.graders import (
    TYPES_OF_JOBS,
    UNSUPPORTED,
    Grader,
    GradingContext,
    MultiGrader,
    Reply,
    parse_grader,
    parts_of,
    sources_of,
)
from ftpipe.grading.python_grader import OPTION, RUNTIME_ERROR, PythonResult, SandboxError, run_python
from ftpipe.grading.score_model import SERVER_ERROR, ModelReply
from ftpipe.server.api.schemas import RequestModel, validate_body
from ftpipe.server.grader_models import GraderModels
from ftpipe.server.protocol import ApiRequest, bad_request
from ftpipe.training.rewards import context_of_text

# fmt: off
ERROR_FLAGS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
    "invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error",
    "model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error",
)
# fmt: on
ERROR_DETAILS = (
    "python_grader_server_error_type",
    "python_grader_runtime_error_details",
    "model_grader_server_error_details",
)


class RunRequest(RequestModel):
    """``POST /fine_tuning/alpha/graders/run``."""

    grader: dict[str, Any]
    model_sample: Template
    item: dict[str, Any] | None = None


class ValidateRequest(RequestModel):
    """``POST /fine_tuning/alpha/graders/validate``."""

    grader: dict[str, Any]


class GradersApi:
    """The handlers of ``/fine_tuning/alpha/graders``.

    Args:
        models: The models that graders can ask.
        allow_python: Whether graders may run code.
    """

    def __init__(self, models: GraderModels, *, allow_python: bool) -> None:
        self._models = models
        self._allow_python = allow_python

    def validate(self, call: ApiRequest) -> Mapping[str, Any]:
        """Check a grader and return it."""
        request = validate_body(ValidateRequest, call.body)
        grader = self._parse(request.grader, call.owner)
        for source in sources_of(grader).values():
            _run_python(source, [], call)
        return {"grader": request.grader}

    def run(self, call: ApiRequest) -> Mapping[str, Any]:
        """Grade one sample."""
        request = validate_body(RunRequest, call.body)
        grader = self._parse(request.grader, call.owner)
        started = time.perf_counter()
        grading = context_of_text(request.item or {}, request.model_sample)
        requests = grading.model_requests(grader)
        answers = self._models.ask(call.owner, list(requests.values()), call.cancel_token)
        replies: dict[str, Reply] = dict(zip(requests, answers, strict=True))
        for name, source in sources_of(grader).items():
            (replies[name],) = _run_python(source, [grading.python_call()], call)
        reward = grading.score(grader, replies)
        return _run_object(grader, reward, grading, replies, time.perf_counter() - started)

    def _parse(self, fields: Mapping[str, Any], owner: str) -> Grader:
        return grader_from_request(fields, owner, self._models, allow_python=self._allow_python)


def _run_python(source: str, calls: Sequence[Mapping[str, Any]], call: ApiRequest) -> list[PythonResult]:
    """The results of code; 400 if it cannot be run at all."""
    try:
        return run_python(source, calls, call.cancel_token.raise_if_cancelled)
    except SandboxError as exc:
        raise bad_request(f"Invalid 'grader.source': {exc.message}.", "grader.source", "invalid_grader") from exc


def grader_from_request(
    fields: Mapping[str, Any], owner: str, models: GraderModels, path: str = "grader", *, allow_python: bool
) -> Grader:
    """A grader from a request.

    Args:
        fields: The grader.
        owner: Whose request it is.
        models: The models that graders can ask.
        path: Its name in errors.
        allow_python: Whether it may run code.

    Raises:
        ApiError: 400 that says which field is wrong, or why this grader is not supported.
    """
    try:
        grader = parse_grader(
            fields,
            path,
            validate=lambda model, part, at: validate_body(model, part, f"{at}."),
            types={kind: model for kind, model in TYPES_OF_JOBS.items() if allow_python or kind != "python"},
            unsupported={**UNSUPPORTED, "python": f"it runs code, which `ftpipe serve` does only with {OPTION}"},
        )
    except GraderError as exc:
        if not exc.is_supported:
            message = f"{exc.reason[:1].upper()}{exc.reason[1:]}."
            raise bad_request(message, exc.param, "unsupported_grader") from exc
        raise bad_request(f"Invalid '{exc.param}': {exc.reason}.", exc.param) from exc
    for name, part in parts_of(grader).items():
        at = f"{path}.graders.{name}" if isinstance(grader, MultiGrader) else path
        if isinstance(part, ScoreModel):
            models.require(owner, part.model, f"{at}.model")
    return grader


def _run_object(
    grader: Grader, reward: float, grading: GradingContext, replies: Mapping[str, Reply], seconds: float
) -> dict[str, Any]:
    errors: dict[str, Any] = {name: name in grading.errors for name in ERROR_FLAGS}
    errors |= dict.fromkeys(ERROR_DETAILS)
    for error in (SERVER_ERROR, RUNTIME_ERROR):
        details = [text for name, text in grading.part_errors.values() if name == error]
        errors[f"{error}_details"] = "; ".join(details) or None
    answered = [reply for reply in replies.values() if isinstance(reply, ModelReply) and not reply.error]
    used = {name: Counter[str]() for name in dict.fromkeys(reply.model for reply in answered)}
    for reply in answered:
        used[reply.model].update(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
    return {
        "reward": reward,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": errors,
            "execution_time": seconds,
            "scores": grading.scores,
            "token_usage": sum(counts.total() for counts in used.values()) if used else None,
            "sampled_model_name": next(iter(used)) if len(used) == 1 else None,
        },
        "sub_rewards": grading.scores,
        "model_grader_token_usage_per_model": {name: dict(counts) for name, counts in used.items()},
    }
