"""Jobs over HTTP: from creation to a model that answers, with a real trainer process."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from ftpipe.training.job_directory import JobDirectory
from tests.server.conftest import LINES, MakeClient, create_job, sdk, upload, wait_for
from tests.server.fakes import FakeEngine


def test_job_runs_to_model_that_answers(client: TestClient, engine: FakeEngine) -> None:
    """The whole way: file, job, events, checkpoints, result file, model, chat."""
    job = create_job(client, extras={"n_epochs": 2}, suffix="Support Bot")
    assert job["status"] == "validating_files"
    done = wait_for(client, job["id"], "succeeded")
    assert done["fine_tuned_model"].startswith("ft:smollm2-135m-instruct:local:support-bot:")
    assert done["trained_tokens"] == 4
    assert done["hyperparameters"] == {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.0}
    model = done["fine_tuned_model"]
    assert client.get(f"/v1/models/{model}").json()["id"] == model
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "hello there friend"
    assert engine.adapters[-1] is not None
    assert engine.adapters[-1].name == "step-4"


def test_job_result_file_is_base64_csv(client: TestClient) -> None:
    """Clients of OpenAI decode it, so it must come encoded."""
    done = wait_for(client, create_job(client)["id"], "succeeded")
    content = client.get(f"/v1/files/{done['result_files'][0]}/content").content
    assert base64.b64decode(content).startswith(b"step,train_loss,train_accuracy,valid_loss")


def test_job_events_page_newest_first(client: TestClient) -> None:
    """Paging by the last id reaches every event once."""
    done = wait_for(client, create_job(client)["id"], "succeeded")
    messages: list[str] = []
    after = None
    while True:
        query = {"limit": "3"} | ({"after": after} if after else {})
        page = client.get(f"/v1/fine_tuning/jobs/{done['id']}/events", params=query).json()
        assert "first_id" not in page
        messages += [event["message"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = page["data"][-1]["id"]
    assert messages[0] == "The job has successfully completed"
    assert messages[-1].startswith("Created fine-tuning job")
    assert len([message for message in messages if message.startswith("Step ")]) == 6


def test_job_events_name_substitute_model(client: TestClient) -> None:
    """Nobody shall believe that gpt-4o-mini itself was trained."""
    job = create_job(client)
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    expected = "gpt-4o-mini is not available here: smollm2-135m-instruct is trained in its place"
    assert expected in [event["message"] for event in events]
    assert job["model"] == "smollm2-135m-instruct"


def test_job_events_name_unknown_hyperparameters(client: TestClient) -> None:
    """A typing error must not train with the default without a word."""
    job = create_job(client, extras={"lora_rank": 8, "lora_alpha": 16, "max_length": 64})
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert [
        event["message"] for event in events if event["level"] == "warn" and "yperparameter" in event["message"]
    ] == ["Unknown hyperparameter, not used: lora_rank; did you mean lora_r?"]


def test_job_delete_needs_an_end_and_no_model(client: TestClient, tmp_path: Path) -> None:
    """Then its row, events, metrics and folder are gone, and nothing is left to be found at the next start."""
    job = create_job(client, extras={"fake_seconds": 0.2})
    url = f"/v1/fine_tuning/jobs/{job['id']}"
    assert client.delete(url).json()["error"]["code"] == "invalid_job_status"
    done = wait_for(client, job["id"], "succeeded")
    assert client.delete(url).json()["error"]["code"] == "job_has_model"
    folder = tmp_path / "data" / "jobs" / job["id"]
    assert folder.exists()
    client.delete(f"/v1/models/{done['fine_tuned_model']}")
    assert client.delete(url).json() == {"id": job["id"], "object": "fine_tuning.job", "deleted": True}
    assert not folder.exists()
    assert [client.get(path).status_code for path in (url, f"{url}/events")] == [404, 404]
    assert client.get(f"/v1/files/{done['result_files'][0]}").status_code == 404
    assert client.delete(url).status_code == 404
    assert not (tmp_path / "data" / "files" / done["result_files"][0]).exists()


def test_job_serve_as_keeps_the_old_name(client: TestClient) -> None:
    """Only if it is requested; the job still names the real base, and so does a model that is tuned further."""
    job = create_job(client, serve_as="gpt-4o-mini")
    assert job["model"] == "smollm2-135m-instruct"
    model = wait_for(client, job["id"], "succeeded")["fine_tuned_model"]
    assert model.startswith("ft:gpt-4o-mini:local:")
    further = wait_for(client, create_job(client, model=model)["id"], "succeeded")
    assert further["model"] == model
    assert further["fine_tuned_model"].startswith("ft:smollm2-135m-instruct:local:")


def test_job_keep_checkpoints_on_disk_and_in_api(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(keep_checkpoints=5)
    done = wait_for(client, create_job(client, extras={"n_epochs": 7})["id"], "succeeded")
    page = client.get(f"/v1/fine_tuning/jobs/{done['id']}/checkpoints").json()
    assert [item["step_number"] for item in page["data"]] == [14, 12, 10, 8, 6]
    directory = JobDirectory(tmp_path / "data" / "jobs" / done["id"])
    assert [checkpoint.step for checkpoint in directory.checkpoints()] == [6, 8, 10, 12, 14]


def test_job_keeps_last_three_checkpoints(client: TestClient, engine: FakeEngine) -> None:
    """Five epochs leave three checkpoints, each a model of its own."""
    done = wait_for(client, create_job(client, extras={"n_epochs": 5})["id"], "succeeded")
    page = client.get(f"/v1/fine_tuning/jobs/{done['id']}/checkpoints").json()
    assert [item["step_number"] for item in page["data"]] == [10, 8, 6]
    assert page["first_id"] == page["data"][0]["id"]
    name = page["data"][2]["fine_tuned_model_checkpoint"]
    assert name.endswith(":ckpt-step-6")
    body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert engine.adapters[-1] is not None
    assert engine.adapters[-1].name == "step-6"


def test_job_with_invalid_file_fails_and_names_lines(client: TestClient) -> None:
    """The content is checked when the job looks at it, as the service does."""
    file = upload(client, b'{"good": 1}\n{"bad": 2}\n')
    failed = wait_for(client, create_job(client, training_file=file["id"])["id"], "failed")
    assert failed["error"] == {"code": "invalid_training_file", "message": "line 2: bad", "param": "training_file"}
    assert failed["fine_tuned_model"] is None


def test_job_validation_crash_fails_only_its_job(client: TestClient) -> None:
    """The thread that carries all jobs survives it."""
    file = upload(client, LINES.replace(b"hi", b"broken"))
    failed = wait_for(client, create_job(client, training_file=file["id"])["id"], "failed")
    assert failed["error"]["message"].startswith("The files could not be checked: it ended with exit code 1")
    wait_for(client, create_job(client)["id"], "succeeded")


def test_jobs_over_max_jobs_are_queued(client: TestClient) -> None:
    """One job trains at a time; the next starts when it has ended."""
    first = create_job(client, extras={"fake_seconds": 0.1})
    second = create_job(client)
    wait_for(client, first["id"], "running")
    assert wait_for(client, second["id"], "queued", "running")["status"] == "queued"
    assert (
        wait_for(client, second["id"], "succeeded")["finished_at"]
        >= wait_for(client, first["id"], "succeeded")["finished_at"]
    )


def test_jobs_create_over_max_open_jobs_is_429(make_client: MakeClient) -> None:
    """The queue has an end, and the answer has the service's code."""
    client = make_client(max_open_jobs=1)
    file = upload(client)
    create_job(client, training_file=file["id"], extras={"fake_seconds": 1})
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "gpt-4o-mini", "training_file": file["id"]})
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_job_cancel_ends_trainer(client: TestClient) -> None:
    """Even a trainer that ignores SIGTERM ends soon, and the next job starts."""
    job = create_job(client, extras={"fake_seconds": 60, "fake_stubborn": True})
    wait_for(client, job["id"], "running")
    cancelled = client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").status_code == 200
    wait_for(client, create_job(client)["id"], "succeeded", seconds=15)


def test_job_pause_and_resume_repeat_no_step(client: TestClient) -> None:
    """No step is trained twice across a pause."""
    job = create_job(client, extras={"fake_seconds": 0.1, "n_epochs": 4})
    wait_for(client, job["id"], "running")
    client.post(f"/v1/fine_tuning/jobs/{job['id']}/pause")
    paused = wait_for(client, job["id"], "paused")
    assert (paused["status"], paused["x_ftpipe"]) == ("queued", {"paused": True, "reason": "requested"})
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == [paused]
    resumed = client.post(f"/v1/fine_tuning/jobs/{job['id']}/resume").json()
    assert "x_ftpipe" not in resumed
    wait_for(client, job["id"], "succeeded")
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events", params={"limit": 100}).json()["data"]
    steps = [event["message"].split(":")[0] for event in reversed(events) if event["type"] == "metrics"]
    assert steps == [f"Step {number}/8" for number in range(1, 9)]


def test_jobs_list_filters_by_metadata(client: TestClient) -> None:
    """A filter returns the jobs with all its pairs; null returns those without metadata."""
    one = create_job(client, metadata={"run": "1", "team": "a"})
    without_metadata = create_job(client)
    url = "/v1/fine_tuning/jobs"
    assert [job["id"] for job in client.get(url, params={"metadata[run]": "1"}).json()["data"]] == [one["id"]]
    assert client.get(url, params={"metadata[run]": "1", "metadata[team]": "b"}).json()["data"] == []
    listed = client.get(url, params={"metadata": "null"}).json()["data"]
    assert [job["id"] for job in listed] == [without_metadata["id"]]


def test_job_with_crashing_trainer_fails(client: TestClient) -> None:
    """After a few restarts the job fails."""
    job = create_job(client, extras={"fake_end": "exception"})
    failed = wait_for(client, job["id"], "failed")
    assert failed["error"]["code"] == "server_error"


def test_job_error_is_that_of_result(client: TestClient) -> None:
    """What the trainer says about the failure reaches the client."""
    failed = wait_for(client, create_job(client, extras={"fake_end": "failed"})["id"], "failed")
    assert failed["error"]["message"] == "nothing to learn"


def test_job_continues_from_tuned_model(client: TestClient, tmp_path: Path) -> None:
    """The job has its own hold on the adapter, so deleting the first model does not take it away."""
    first = wait_for(client, create_job(client)["id"], "succeeded")["fine_tuned_model"]
    second = create_job(client, model=first, suffix="more", extras={"fake_seconds": 0.2})
    assert client.delete(f"/v1/models/{first}").status_code == 200
    wait_for(client, second["id"], "running")
    folder = tmp_path / "data" / "jobs" / second["id"]
    spec = json.loads((folder / "spec.json").read_text())
    assert (spec["base_model"], spec["initial_adapter"]) == ("smollm2-135m-instruct", str(folder / "initial_adapter"))
    assert (folder / "initial_adapter" / "adapter_model.safetensors").is_file()
    done = wait_for(client, second["id"], "succeeded")
    assert done["fine_tuned_model"].startswith("ft:smollm2-135m-instruct:local:more:")


def test_jobs_create_refuses_file_of_other_purpose(client: TestClient) -> None:
    """Only files with the purpose fine-tune can be trained on."""
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}")}).json()
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "gpt-4o-mini", "training_file": file["id"]})
    assert answer.json()["error"]["code"] == "invalid_file_purpose"


def test_jobs_list_refuses_mixed_metadata_filters(client: TestClient) -> None:
    """The two forms exclude each other."""
    assert client.get("/v1/fine_tuning/jobs", params={"metadata": "null", "metadata[a]": "b"}).status_code == 400
    assert client.get("/v1/fine_tuning/jobs", params={"metadata": "x"}).status_code == 400


def test_reinforcement_job_has_its_grader(client: TestClient, tmp_path: Path) -> None:
    """In the answer as OpenAI's client reads it, for the trainer, and in what a lost database is rebuilt from."""
    check: Any = {"type": "string_check", "name": "a", "input": "x", "reference": "y", "operation": "eq"}
    block = {"grader": check, "hyperparameters": {"compute_multiplier": 0.5, "eval_interval": 3, "n_epochs": 1}}
    openai_client, method_block = sdk(client), {"type": "reinforcement", "reinforcement": block}
    fields: Any = {"model": "gpt-4o-mini", "training_file": upload(client)["id"], "method": method_block}
    job = openai_client.fine_tuning.jobs.create(**fields)
    done = wait_for(client, job.id, "succeeded")
    assert done["method"]["type"] == "reinforcement"
    assert done["method"]["reinforcement"]["grader"] == check
    method = openai_client.fine_tuning.jobs.retrieve(job.id).method
    assert method is not None
    assert method.reinforcement is not None
    assert method.reinforcement.grader.type == "string_check"
    assert method.reinforcement.hyperparameters is not None
    assert method.reinforcement.hyperparameters.compute_multiplier == 0.5
    directory = JobDirectory(tmp_path / "data" / "jobs" / job.id)
    assert directory.read_spec().grader == check
    assert json.loads(directory.manifest_file.read_text(encoding="utf-8"))["grader"] == check
