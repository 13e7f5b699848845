"""Jobs of Fireworks: the body of the request, ids by key, states, metrics, cancel, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import ConfigError, InvalidResponseError, NotFoundError, OutcomeUnknownError, RequestRefusedError
from ftpipe.providers.fireworks.job_request import job_id_of, output_model_id
from ftpipe.providers.provider import Provider
from ftpipe.records import Hyperparameters, Method
from ftpipe.records.idempotency_keys import attempt_key
from tests.fakes.fireworks import BASE, PARENT, RESOURCE_ID, FireworksServer
from tests.fakes.scripted_server import LOST, Fault, refusal
from tests.faults.fireworks_environment import fireworks_provider, request_of, wait_for_end

KEY = "a-key-of-the-journal"
CREATE = "POST /supervisedFineTuningJobs"


def test_create_sends_the_described_body(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    validation = request_of(provider, tmp_path / "v.jsonl", lines=4).training_file
    request = request_of(
        provider,
        tmp_path / "t.jsonl",
        validation_file=validation,
        suffix="My Bot!",
        hyperparameters={
            "batch_size": 8,
            "lora_r": 16,
            "extra": {"maxContextLength": 8192, "earlyStop": True, "optimizerWeightDecay": 0.1},
        },
    )
    job = provider.jobs.create(request, key=KEY)
    job_id = job_id_of(KEY, Method.SUPERVISED)
    assert job.id == job_id
    assert host.bodies == [
        {
            "dataset": f"{PARENT}/datasets/{request.training_file.id}",
            "evaluationDataset": f"{PARENT}/datasets/{validation.id}",
            "evalAutoCarveout": False,
            "displayName": "My Bot!",
            "baseModel": BASE,
            "outputModel": f"{PARENT}/models/my-bot-{job_id[-12:]}",
            "epochs": 2,
            "batchSizeSamples": 8,
            "learningRate": 1e-4,
            "loraRank": 16,
            "maxContextLength": 8192,
            "earlyStop": True,
            "optimizerWeightDecay": 0.1,
        }
    ]


def test_create_sends_dpo_job_with_its_beta(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    request = request_of(provider, tmp_path / "t.jsonl", method=Method.DPO, hyperparameters={"beta": 0.2})
    job = provider.jobs.create(request, key=KEY)
    body = host.bodies[0]
    assert (job.method, job.id) == (Method.DPO, job_id_of(KEY, Method.DPO))
    assert body["lossConfig"] == {"method": "DPO", "dpo": {"beta": 0.2}}
    assert body["trainingConfig"]["outputModel"] == f"{PARENT}/models/{job.id}"
    finished = wait_for_end(provider, job.id)
    assert finished.fine_tuned_model == f"{PARENT}/models/{job.id}"
    assert [event.type for event in provider.jobs.events(job.id)][:1] == ["metrics"]


def test_create_leaves_automatic_values_to_the_service(
    provider: Provider, host: FireworksServer, tmp_path: Path
) -> None:
    request = request_of(provider, tmp_path / "t.jsonl", hyperparameters={"n_epochs": "auto", "learning_rate": None})
    provider.jobs.create(request, key=KEY)
    assert host.bodies[0].keys() == {"dataset", "displayName", "baseModel", "outputModel", "evalAutoCarveout"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": 12}, "power of two"),
        ({"lora_r": 64}, "power of two"),
        ({"extra": {"maxContextLength": 1000}}, "multiple of 16"),
        ({"extra": {"gradientAccumulationSteps": 4}}, "refuses it"),
        ({"extra": {"seed": 4}}, "no seed"),
        ({"extra": {"loraRank": 16}}, "lora_r"),
        ({"extra": {"learning_rate": 0.1}}, "no hyperparameter"),
        ({"extra": {"earlyStop": 1}}, "not of the type bool"),
        ({"extra": {"maxContextLength": True}}, "not of the type int"),
        ({"lora_alpha": 16}, "lora_alpha"),
        ({"target_modules": "all-linear"}, "target_modules"),
    ],
)
def test_check_refuses_values_outside_the_limits(provider: Provider, values: dict[str, Any], message: str) -> None:
    """Before anything is uploaded, and with the value that the host would refuse."""
    with pytest.raises(RequestRefusedError, match=message) as caught:
        provider.jobs.check_can_create("qwen3-8b", hyperparameters=Hyperparameters(**values))
    assert caught.value.hint


def test_check_refuses_beta_and_early_stop_of_dpo(provider: Provider) -> None:
    for values in ({"beta": 0.5}, {"extra": {"earlyStop": True}}):
        with pytest.raises(RequestRefusedError):
            provider.jobs.check_can_create(
                "qwen3-8b", method=Method.DPO, hyperparameters=Hyperparameters.model_validate(values)
            )


def test_check_refuses_base_that_is_not_tunable(provider: Provider) -> None:
    with pytest.raises(RequestRefusedError, match="supervisedLoraTunable"):
        provider.jobs.check_can_create("whisper-v3")
    assert provider.jobs.check_can_create("qwen3-8b").allowed is True


def test_check_suggests_similar_base(provider: Provider) -> None:
    with pytest.raises(NotFoundError) as caught:
        provider.jobs.check_can_create("qwen3-9b")
    assert "qwen3-8b" in caught.value.hint


def test_check_refuses_context_beyond_the_base(provider: Provider) -> None:
    with pytest.raises(RequestRefusedError, match="32,768"):
        provider.jobs.check_can_create("qwen3-8b", hyperparameters=Hyperparameters(extra={"maxContextLength": 65536}))


def test_create_refuses_seed_and_dpo_validation(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    """What cannot be expressed is refused, never left out in silence."""
    request = request_of(provider, tmp_path / "t.jsonl", seed=7)
    with pytest.raises(RequestRefusedError, match="seed"):
        provider.jobs.create(request, key=KEY)
    dpo = request_of(provider, tmp_path / "t.jsonl", method=Method.DPO, validation_file=request.training_file)
    with pytest.raises(RequestRefusedError, match="validation"):
        provider.jobs.create(dpo, key=KEY)
    assert not host.bodies


def test_create_of_existing_id_returns_that_job(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    """409 says that a call with this key made the job."""
    request = request_of(provider, tmp_path / "t.jsonl")
    first = provider.jobs.create(request, key=KEY)
    assert provider.jobs.create(request, key=KEY).id == first.id
    assert len(host.jobs) == 1
    assert len({provider.jobs.create(request, key=other).id for other in ("x", "y")}) == 2


def test_create_conflict_about_something_else_is_not_a_job(
    provider: Provider, host: FireworksServer, tmp_path: Path
) -> None:
    """409 although there is no job of that id: nothing is invented."""
    request = request_of(provider, tmp_path / "t.jsonl")
    host.script(CREATE, refusal(409, "6", "the output model exists"))
    with pytest.raises(OutcomeUnknownError, match="the output model exists"):
        provider.jobs.create(request, key=KEY)
    assert not host.jobs


def test_find_by_key_needs_no_list(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    request = request_of(provider, tmp_path / "t.jsonl")
    assert provider.jobs.find_by_key(KEY) == []
    host.script(CREATE, LOST)
    with pytest.raises(OutcomeUnknownError):
        provider.jobs.create(request, key=KEY)
    found = provider.jobs.find_by_key(KEY)
    assert [job.id for job in found] == [job_id_of(KEY, Method.SUPERVISED)]
    assert provider.jobs.match_key(found[0], KEY) is True
    assert provider.jobs.match_key(found[0], "another") is False
    assert host.calls["GET /supervisedFineTuningJobs"] == 0


def test_create_after_failed_job_of_same_key_uses_next_id(
    provider: Provider, host: FireworksServer, tmp_path: Path
) -> None:
    """An id cannot be used twice; the id of the next attempt is as certain as the first, and belongs to the key."""
    request = request_of(provider, tmp_path / "t.jsonl")
    host.states = ("JOB_STATE_FAILED",)
    first = provider.jobs.create(request, key=KEY)
    host.states = ("JOB_STATE_RUNNING",)
    host.jobs[f"{PARENT}/supervisedFineTuningJobs/{first.id}"]["fixed"] = True
    assert provider.jobs.create(request, key=KEY).id == first.id
    second = provider.jobs.create(request, key=attempt_key(KEY, 2))
    assert [job.id for job in provider.jobs.find_by_key(KEY)] == [first.id, second.id]
    assert len({job["outputModel"] for job in host.jobs.values()}) == 2


def test_job_ids_and_model_ids_have_the_form_of_an_id() -> None:
    for method in (Method.SUPERVISED, Method.DPO):
        assert RESOURCE_ID.fullmatch(job_id_of(attempt_key("k" * 64, 20), method))
    for suffix in ("Support Desk", "ÄÖÜ", "7up", "-", "x" * 64, "a--b"):
        assert RESOURCE_ID.fullmatch(output_model_id(suffix, job_id_of("k", Method.SUPERVISED)))


def test_recent_lists_jobs_of_both_kinds_over_pages(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    request = request_of(provider, tmp_path / "t.jsonl")
    for number in range(3):
        provider.jobs.create(request, key=str(number))
    provider.jobs.create(request_of(provider, tmp_path / "t.jsonl", method=Method.DPO), key="dpo")
    for number in range(450):
        name = f"{PARENT}/supervisedFineTuningJobs/old-{number}"
        host.jobs[name] = {
            "name": name,
            "state": "JOB_STATE_COMPLETED",
            "dataset": "d",
            "createTime": "2025-01-01T00:00:00Z",
        }
    jobs = list(provider.jobs.recent())
    assert len(jobs) == 454
    assert {job.method for job in jobs[:4]} == {Method.SUPERVISED, Method.DPO}
    assert jobs[0].created_at >= jobs[-1].created_at
    assert len(list(provider.jobs.recent(since=host.now() - 60))) == 4
    host.checks_answers = False
    host.jobs["broken"] = {"name": f"{PARENT}/supervisedFineTuningJobs/../x", "createTime": "2026-01-01T00:00:00Z"}
    host.jobs[f"{PARENT}/supervisedFineTuningJobs/broken"] = host.jobs.pop("broken")
    listing = provider.jobs.all()
    assert (len(listing.jobs), listing.unreadable) == (454, 1)


def test_recent_ends_at_repeated_page_token(provider: Provider, host: FireworksServer) -> None:
    page = b'{"supervisedFineTuningJobs": [], "nextPageToken": "same"}'
    host.always("GET /supervisedFineTuningJobs", Fault(executed=False, body=page))
    assert list(provider.jobs.recent()) == []
    assert host.calls["GET /supervisedFineTuningJobs"] == 2


def test_events_have_the_steps_of_the_metrics_file(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    wait_for_end(provider, job.id)
    events = provider.jobs.events(job.id)
    metrics = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in metrics] == list(range(1, len(metrics) + 1))
    assert metrics[0].data["train_loss"] == 1.0
    known = {event.id for event in events}
    assert not known & {event.id for event in provider.jobs.events(job.id, known=known)}
    assert host.urls_with_key == []


def test_events_before_the_metrics_file_exists(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    """The URL is there before the file, and its store answers 404."""
    host.metrics = ""
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    assert [event.type for event in provider.jobs.events(job.id)] == ["message"]


def test_events_do_not_follow_a_private_metrics_url(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    shown = {
        **{"name": f"{PARENT}/supervisedFineTuningJobs/{job.id}", "state": "JOB_STATE_RUNNING", "dataset": "d"},
        "metricsFileSignedUrl": "https://169.254.169.254/latest/meta-data",
    }
    host.script("GET /supervisedFineTuningJobs/{job}", Fault(body=str(shown).replace("'", '"').encode()))
    with pytest.raises((InvalidResponseError, RequestRefusedError)):
        provider.jobs.events(job.id)


def test_cancel_and_delete(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    assert provider.jobs.cancel(job.id).status == "cancelled"
    assert provider.jobs.resume(job.id).status != "cancelled"
    with pytest.raises(RequestRefusedError, match="cannot pause"):
        provider.jobs.pause(job.id)
    provider.jobs.delete(job.id)
    assert host.jobs == {}


def test_get_of_foreign_job_tries_both_kinds(provider: Provider, host: FireworksServer) -> None:
    """A job that another tool made can be of either kind."""
    name = f"{PARENT}/dpoJobs/theirs"
    host.jobs[name] = {
        "name": name,
        "state": "RUNNING",
        "dataset": "d",
        "createTime": "2026-01-01T00:00:00Z",
        "reads": 0,
    }
    assert provider.jobs.get("theirs").method is Method.DPO
    with pytest.raises(NotFoundError):
        provider.jobs.get("nobodys")
    with pytest.raises(NotFoundError):
        provider.jobs.get("../models/x")


def test_download_weights_fetches_the_adapter_without_key(
    provider: Provider, host: FireworksServer, tmp_path: Path
) -> None:
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(RequestRefusedError, match="has no model"):
        provider.jobs.download_weights(job.id, folder, on_bytes=lambda _done, _total: None)
    wait_for_end(provider, job.id)
    sizes: list[int] = []
    paths = provider.jobs.download_weights(job.id, folder, on_bytes=lambda done, _total: sizes.append(done))
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert [path.read_text().startswith("weights of") for path in paths] == [True, True]
    assert sizes[-1] == sum(path.stat().st_size for path in paths)
    assert host.urls_with_key == []


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "", ".hidden"])
def test_download_weights_refuses_names_that_leave_the_folder(
    provider: Provider, host: FireworksServer, tmp_path: Path, name: str
) -> None:
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    wait_for_end(provider, job.id)
    body = f'{{"filenameToSignedUrls": {{"{name}": "{host.origin}/signed/weights/x"}}}}'.encode()
    host.script("GET /models/{model}:getDownloadEndpoint", Fault(body=body))
    with pytest.raises(InvalidResponseError):
        provider.jobs.download_weights(job.id, tmp_path, on_bytes=lambda _done, _total: None)


def test_account_is_that_of_the_key(host: FireworksServer, tmp_path: Path) -> None:
    provider = fireworks_provider(host, account="")
    provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key=KEY)
    assert host.calls["GET /accounts"] == 1
    provider.close()


@pytest.mark.parametrize("accounts", [(), ("acme", "other")])
def test_account_of_several_has_to_be_named(host: FireworksServer, accounts: tuple[str, ...]) -> None:
    host.accounts = accounts
    provider = fireworks_provider(host, account="")
    with pytest.raises(ConfigError, match=f"{len(accounts)} accounts") as caught:
        list(provider.jobs.recent())
    assert "FIREWORKS_ACCOUNT_ID" in caught.value.hint
    provider.close()


def test_account_with_another_form_is_refused(host: FireworksServer) -> None:
    provider = fireworks_provider(host, account="../x")
    with pytest.raises(ConfigError):
        list(provider.jobs.recent())
    assert not host.requests
    provider.close()
