"""The real trainer and the real engine behind the real server, on a model of some thousand parameters."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.jobs import trainer_process
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.training.job_directory import JobDirectory
from tests.server.conftest import upload, wait_for
from tests.training.tiny_model import chat, save_base


@pytest.mark.slow
def test_server_trains_tiny_model_and_answers(tmp_path: Path) -> None:
    """Nothing is faked: file check, trainer process, checkpoints, adapter, chat; DPO is refused a chat file."""
    save_base(tmp_path / "models" / "tiny")
    settings = ServeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    with TestClient(create_app(build_context(settings)), base_url="http://127.0.0.1") as client:
        file = upload(client)
        body = {"model": "tiny", "training_file": file["id"], "seed": 1, "hyperparameters": {"n_epochs": 2}}
        job = client.post("/v1/fine_tuning/jobs", json=body).json()
        wrong = client.post("/v1/fine_tuning/jobs", json=body | {"method": {"type": "dpo"}}).json()
        done = wait_for(client, job["id"], "succeeded", "failed", seconds=240)
        assert done["status"] == "succeeded", done
        assert done["trained_tokens"] > 0
        page = client.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()
        assert len(page["data"]) == 2
        for model in (done["fine_tuned_model"], page["data"][1]["fine_tuned_model_checkpoint"]):
            chat = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            answer = client.post("/v1/chat/completions", json=chat).json()
            assert answer["usage"]["completion_tokens"] >= 1, answer
        failed = wait_for(client, wrong["id"], "failed", seconds=60)
        assert failed["error"]["code"] == "invalid_training_file"
        assert "dpo" in failed["error"]["message"]


@pytest.mark.slow
def test_model_of_this_server_scores_the_answers(tmp_path: Path) -> None:
    """Two steps whose answers the base itself scores; what it writes can only be a score in the grader's range."""
    save_base(tmp_path / "models" / "tiny")
    lines = "".join(json.dumps(chat(f"word {n}", system="")) + "\n" for n in range(12))
    settings = ServeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    with TestClient(create_app(build_context(settings)), base_url="http://127.0.0.1") as client:
        judge = {"type": "score_model", "name": "judge", "model": "tiny", "range": [2, 4]}
        grader = {**judge, "input": [{"role": "user", "content": "{{sample.output_text}}"}]}
        block: dict[str, Any] = {"grader": grader, "hyperparameters": {"max_completion_tokens": 4, "n_epochs": 1}}
        method = {"type": "reinforcement", "reinforcement": block}
        body = {"model": "tiny", "training_file": upload(client, lines.encode())["id"], "method": method}
        job = client.post("/v1/fine_tuning/jobs", json=body).json()
        done = wait_for(client, job["id"], "succeeded", "failed", seconds=240)
        events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100").json()["data"]
        assert done["status"] == "succeeded", (done, [event["message"] for event in events])
        steps = [event["data"] for event in events if event["type"] == "metrics"]
        assert steps
        assert all(2 <= step["train_mean_reward"] <= 4 for step in steps)
        assert all(step["usage"]["graders"][0]["train_completion_tokens_count"] > 0 for step in steps)


@pytest.mark.slow
def test_cancel_ends_reinforcement_between_tokens(tmp_path: Path) -> None:
    """The first step would sample 256 answers of 400 tokens; the trainer ends before it, and leaves no file behind."""
    save_base(tmp_path / "models" / "tiny")
    lines = "".join(json.dumps({**chat(f"word {n}", system=""), "answer": "a"}) + "\n" for n in range(12))
    check = {"type": "string_check", "name": "a", "input": "{{sample.output_text}}", "operation": "like"}
    settings = ServeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    with TestClient(create_app(build_context(settings)), base_url="http://127.0.0.1") as client:
        block: dict[str, Any] = {
            "grader": {**check, "reference": "{{item.answer}}"},
            "hyperparameters": {"compute_multiplier": 8, "max_completion_tokens": 400, "batch_size": 4},
        }
        method = {"type": "reinforcement", "reinforcement": block}
        body = {"model": "tiny", "training_file": upload(client, lines.encode())["id"], "method": method}
        job = client.post("/v1/fine_tuning/jobs", json=body).json()
        directory = JobDirectory(tmp_path / "data" / "jobs" / job["id"])
        deadline = time.monotonic() + 240
        while not directory.policy_dir.exists():
            assert time.monotonic() < deadline, client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
            time.sleep(0.02)
        assert client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
        cancelled = time.monotonic()
        while trainer_process.is_locked(directory) or directory.policy_dir.exists():
            assert time.monotonic() < cancelled + 20
            time.sleep(0.02)
        assert not directory.metrics_file.read_text(encoding="utf-8").splitlines()[1:]
        assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["status"] == "cancelled"
