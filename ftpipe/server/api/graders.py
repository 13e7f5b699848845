"""``/fine_tuning/alpha/graders``: run and validate the graders that need no model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ftpipe.grading.graders import Grader, GraderError, GradingContext, Template, parse_grader
from ftpipe.inference.tool_call_parser import parse_tool_calls
from ftpipe.server.api.schemas import RequestModel, validate_body
from ftpipe.server.protocol import ApiRequest, bad_request

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
    """The handlers of ``/fine_tuning/alpha/graders``."""

    def validate(self, call: ApiRequest) -> Mapping[str, Any]:
        """Check a grader and return it."""
        request = validate_body(ValidateRequest, call.body)
        grader_from_request(request.grader)
        return {"grader": request.grader}

    def run(self, call: ApiRequest) -> Mapping[str, Any]:
        """Grade one sample."""
        request = validate_body(RunRequest, call.body)
        grader = grader_from_request(request.grader)
        started = time.perf_counter()
        calls = parse_tool_calls(request.model_sample)
        grading = GradingContext(request.item or {}, request.model_sample, calls[1] if calls else ())
        reward = grading.score(grader)
        return _run_object(grader, reward, grading, time.perf_counter() - started)


def grader_from_request(fields: Mapping[str, Any], path: str = "grader") -> Grader:
    """A grader from a request.

    Args:
        fields: The grader.
        path: Its name in errors.

    Raises:
        ApiError: 400 that says which field is wrong, or why this grader is not supported.
    """
    try:
        return parse_grader(fields, path, validate=lambda model, part, at: validate_body(model, part, f"{at}."))
    except GraderError as exc:
        if not exc.is_supported:
            message = f"{exc.reason[:1].upper()}{exc.reason[1:]}."
            raise bad_request(message, exc.param, "unsupported_grader") from exc
        raise bad_request(f"Invalid '{exc.param}': {exc.reason}.", exc.param) from exc


def _run_object(grader: Grader, reward: float, grading: GradingContext, seconds: float) -> dict[str, Any]:
    errors: dict[str, Any] = {name: name in grading.errors for name in ERROR_FLAGS}
    errors |= dict.fromkeys(ERROR_DETAILS)
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
