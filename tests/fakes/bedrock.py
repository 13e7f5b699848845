"""A local Bedrock: OpenAI's job API for reinforcement of open models, with what it refuses and leaves out."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.scripted_server import Answer, RejectedRequest, Request
from tests.faults.endpoint import FaultEndpoint, page

MODEL = "qwen.qwen3-32b-v1:0"
CREATE_KEYS = {"model", "training_file", "method"}
HYPERPARAMETERS = {"n_epochs", "batch_size", "learning_rate_multiplier"}


class BedrockEndpoint(FaultEndpoint):
    """The endpoint; a context manager that runs it in a thread on loopback."""

    def execute(self, request: Request) -> Any:
        """Execute a call; chat is at the same base."""
        if request.route == "POST /chat/completions":
            return self.chat(request.fields)
        return super().execute(request)

    def create_job(self, *, fields: dict[str, Any], headers: dict[str, str], **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs``: reinforcement with a Lambda function as grader, and nothing else."""
        for key in sorted(fields.keys() - CREATE_KEYS):
            self.bodies.append(fields)
            raise RejectedRequest(400, f"{key.replace('_', ' ').capitalize()} field is not supported")
        method = fields.get("method", {})
        block = method.get("reinforcement", {})
        grader = block.get("grader", {})
        function = grader.get("lambda", {}).get("function", "")
        if method.get("type") != "reinforcement" or grader.get("type") != "lambda" or not function.startswith("arn:"):
            raise RejectedRequest(400, "method must be reinforcement with a lambda grader")
        if block.get("hyperparameters", {}).keys() - HYPERPARAMETERS:
            raise RejectedRequest(400, "unknown hyperparameter")
        return super().create_job(fields=fields, headers=headers)

    def _job(self, **fields: Any) -> dict[str, Any]:
        return {**super()._job(**fields), "metadata": None, "seed": None, "user_provided_suffix": None}

    def list_jobs(self, *, query: dict[str, str], **other: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs``: the status in the list is wrong."""
        unfiltered = {name: value for name, value in query.items() if not name.startswith("metadata[")}
        listed = super().list_jobs(query=unfiltered, **other)
        return {**listed, "data": [{**job, "status": "failed"} for job in listed["data"]]}

    def get_job(self, job_id: str, **other: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}``."""
        job = super().get_job(job_id, **other)
        return {**job, "fine_tuned_model": f"{job['model']}-tuned-{job_id[-4:]}" if job["fine_tuned_model"] else None}

    def _event(self, job_id: str, step: int) -> dict[str, Any]:
        data = {"step": step, "total_steps": 8, "critic_rewards_mean": step / 8, "actor_pg_loss": 1 / step}
        return {**super()._event(job_id, step), "message": f"Step {step}", "data": data}

    def chat(self, fields: dict[str, Any]) -> Any:
        """``POST /chat/completions``: a tuned model answers without a deployment."""
        tuned = {self.get_job(job_id)["fine_tuned_model"] for job_id in self.jobs}
        if fields["model"] not in {MODEL, *tuned}:
            return Answer(404, json.dumps({"error": {"message": "no such model", "code": "model_not_found"}}).encode())
        message = {"role": "assistant", "content": f"answer of {fields['model']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": fields["model"], "choices": [choice]}

    def list_models(self, **_: Any) -> dict[str, Any]:
        """``GET /models``."""
        return page([{"id": MODEL, "object": "model", "created": 1, "owned_by": "qwen"}])
