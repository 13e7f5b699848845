"""Models over HTTP: list, retrieve and delete; and the limits by model."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.testclient import TestClient

from ftpipe.server.model_resolver import BaseModels, tuned_model_name
from tests.server.conftest import MakeClient, create_job, upload, wait_for
from tests.server.fakes import TINY, FakeBaseModels


def test_models_list_has_bases_substitutes_and_tuned(client: TestClient) -> None:
    """Every model that can be used is listed."""
    done = wait_for(client, create_job(client)["id"], "succeeded")
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == [TINY, "gpt-4o-mini", done["fine_tuned_model"]]
    assert client.get("/v1/models/gpt-4o-mini").json()["owned_by"] == "ftpipe"
    assert client.get("/v1/models/org%2Fname").json()["id"] == "org/name"
    assert client.get("/v1/models/nothing").json()["error"]["code"] == "model_not_found"


def test_models_delete_removes_model_and_files(client: TestClient, tmp_path: Path) -> None:
    """With its checkpoints; a base cannot be deleted."""
    done = wait_for(client, create_job(client)["id"], "succeeded")
    model = done["fine_tuned_model"]
    assert client.delete(f"/v1/models/{model}").json() == {"id": model, "object": "model", "deleted": True}
    assert client.delete(f"/v1/models/{model}").status_code == 404
    assert client.get(f"/v1/models/{model}:ckpt-step-6").status_code == 404
    assert not (tmp_path / "data" / "jobs" / done["id"] / "checkpoints").exists()
    assert client.delete(f"/v1/models/{TINY}").json()["error"]["code"] == "model_not_deletable"


def test_models_delete_checkpoint_keeps_model(client: TestClient, tmp_path: Path) -> None:
    """The final one's files stay as long as the model needs them."""
    done = wait_for(client, create_job(client)["id"], "succeeded")
    model = done["fine_tuned_model"]
    for step in (4, 6):
        assert client.delete(f"/v1/models/{model}:ckpt-step-{step}").status_code == 200
    names = [path.name for path in (tmp_path / "data" / "jobs" / done["id"] / "checkpoints").iterdir()]
    assert sorted(names) == ["step-2", "step-6"]
    assert client.get(f"/v1/models/{model}").status_code == 200


def test_jobs_create_without_substitutes_refuses_openai_name(make_client: MakeClient) -> None:
    """The answer has the service's code."""
    client = make_client(bases=FakeBaseModels(substitutes=False))
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "gpt-4o-mini", "training_file": "file-x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_available")


def test_models_limits(make_client: MakeClient) -> None:
    """In the shape that a client of the service's route reads."""
    limits = make_client(max_jobs=2).get("/v1/fine_tuning/model_limits").json()
    assert limits[TINY] == {"max_total_jobs": 100, "max_concurrent_jobs": 2, "active_jobs": 0}


def test_tuned_model_name_escapes_separators() -> None:
    """Slashes and colons of the base, and special characters of the suffix, are replaced."""
    assert tuned_model_name("org/name", "My Bot!", "ftjob-0123456789") == "ft:org--name:local:my-bot:23456789"
    assert tuned_model_name("gpt-4o", None, "ftjob-0123456789") == "ft:gpt-4o:local::23456789"


def test_models_list_has_folders_of_this_machine(tmp_path: Path, make_client: MakeClient) -> None:
    """Whoever can name them can see them."""
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").touch()
    client = make_client(bases=BaseModels(folder.parent, substitutes=False))
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [TINY, "mine"]


def test_jobs_create_names_models_similar_to_unknown_one(tmp_path: Path, make_client: MakeClient) -> None:
    """400 before anything is made; a known name of OpenAI's is trained on the model that stands in."""
    client = make_client(bases=BaseModels(tmp_path / "models", substitutes=True))
    file = upload(client)["id"]
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "gpt-4.1-minni", "training_file": file})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "model_not_found", "model")
    assert "did you mean gpt-4.1-mini" in error["message"]
    assert "`ftpipe models bases`" in error["message"]
    chat = {"model": "gpt-9", "messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/v1/fine_tuning/jobs", json={"model": "gpt-9", "training_file": file}).status_code == 400
    assert client.post("/v1/chat/completions", json=chat).status_code == 404
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    job = client.post("/v1/fine_tuning/jobs", json={"model": "gpt-4.1-mini", "training_file": file}).json()
    assert job["model"] == TINY


def test_base_models_unknown_for_impossible_path(tmp_path: Path) -> None:
    """A name that is too long for a path is unknown, not an error."""
    bases = BaseModels(tmp_path, substitutes=True)
    assert not bases.is_known("a" * 1000)
    assert not bases.is_known("/nowhere/" + "b" * 500)
    assert bases.is_known(TINY)
    assert bases.substitute_for("gpt-4o-mini") == TINY


def test_models_named_by_path_are_not_found(tmp_path: Path, make_client: MakeClient) -> None:
    """The same answer for a model's folder, a folder, a file and nothing, in chat, jobs, losses and look-ups."""
    for name in ("model", "models/kept"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
        (tmp_path / name / "model.safetensors").touch()
    client = make_client(bases=BaseModels(tmp_path / "models", substitutes=True))
    file = upload(client)["id"]
    answers = set()
    for path in (
        str(tmp_path / "model"),
        str(tmp_path),
        "/etc/passwd",
        "/nothing",
        "../model",
        "./kept",
        "models/kept",
    ):
        chat = {"model": path, "messages": [{"role": "user", "content": "hi"}]}
        responses = [
            client.post("/v1/chat/completions", json=chat),
            client.post("/v1/fine_tuning/jobs", json={"model": path, "training_file": file}),
            client.get(f"/v1/models/{quote(path, safe='')}"),
        ]
        answers.add(tuple((r.status_code, r.json()["error"]["code"]) for r in responses))
    assert answers == {((404, "model_not_found"), (400, "model_not_found"), (404, "model_not_found"))}
