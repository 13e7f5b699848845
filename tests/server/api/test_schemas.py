"""Request bodies with wrong parameters."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import upload

CHECK = {
    "type": "string_check",
    "name": "check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


def reinforcement(grader: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The method of a job."""
    return {"type": "reinforcement", "reinforcement": {"grader": grader, **fields}}


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"model": None}, "model", "invalid_type"),
        ({"training_file": "file-none"}, "training_file", "file_not_found"),
        ({"validation_file": "file-none"}, "validation_file", "file_not_found"),
        ({"model": "llama"}, "model", "model_not_found"),
        ({"model": "ft:gpt-4o:local::12345678"}, "model", "model_not_found"),
        ({"serve_as": "gpt-4o:x"}, "serve_as", None),
        ({"serve_as": ""}, "serve_as", None),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "invalid_type"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier", None),
        ({"hyperparameters": {"beta": 0.5}}, "method.supervised.hyperparameters.beta", "unknown_parameter"),
        ({"hyperparameters": {"learning_rate": 2}}, "hyperparameters.learning_rate", None),
        ({"hyperparameters": {"lora_r": 0}}, "hyperparameters.lora_r", None),
        ({"hyperparameters": {"lora_alpha": 5000}}, "hyperparameters.lora_alpha", None),
        ({"hyperparameters": {"lora_dropout": 1}}, "hyperparameters.lora_dropout", None),
        ({"hyperparameters": {"target_modules": []}}, "hyperparameters.target_modules", None),
        (
            {"hyperparameters": {"learning_rate": 0.1, "learning_rate_multiplier": 2}},
            "method.supervised.hyperparameters.learning_rate",
            "invalid_value",
        ),
        ({"hyperparameters": {"x": {"a": 1}}}, "hyperparameters.x", None),
        ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement.grader", "missing_required_parameter"),
        ({"method": reinforcement({})}, "method.reinforcement.grader.type", None),
        ({"method": reinforcement({"type": "python"})}, "method.reinforcement.grader.type", "unsupported_grader"),
        ({"method": reinforcement({**CHECK, "operation": "gt"})}, "method.reinforcement.grader.operation", None),
        (
            {"method": reinforcement(CHECK, response_format={"type": "json_object"})},
            "method.reinforcement.response_format",
            "unsupported_parameter",
        ),
        (
            {"method": reinforcement(CHECK, hyperparameters={"compute_multiplier": 11})},
            "method.reinforcement.hyperparameters.compute_multiplier",
            None,
        ),
        (
            {"hyperparameters": {"eval_interval": 2}},
            "method.supervised.hyperparameters.eval_interval",
            "unknown_parameter",
        ),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"seed": 10**30}, "seed", None),
        ({"suffix": ""}, "suffix", None),
        ({"suffix": "x" * 65}, "suffix", None),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", None),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", None),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ],
)
def test_schemas_name_wrong_job_parameter(
    client: TestClient, changes: dict[str, Any], param: str, code: str | None
) -> None:
    """By its path, with a stable code."""
    body = {"model": "gpt-4o-mini", "training_file": upload(client)["id"]} | changes
    answer = client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code
