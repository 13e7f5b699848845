"""Models and deployments of Fireworks: names, chat in both forms, cold starts, price, stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import NotFoundError, OutcomeUnknownError
from ftpipe.providers.interface import Deployments
from ftpipe.providers.provider import Provider
from ftpipe.records.deployment import deployment_name
from tests.fakes.fireworks import BASE, PARENT, RESOURCE_ID, FireworksServer
from tests.fakes.scripted_server import LOST
from tests.faults.fireworks_environment import fireworks_provider, request_of, wait_for_end

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
CREATE = "POST /deployments"


@pytest.fixture
def job_id(provider: Provider, tmp_path: Path) -> str:
    """A job that has succeeded."""
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key="k")
    return wait_for_end(provider, job.id).id


def deployments_of(provider: Provider) -> Deployments:
    assert provider.deployments is not None
    return provider.deployments


def deploy(provider: Provider, job_id: str) -> str:
    """Deploy the model of a job; returns the model."""
    deployments = deployments_of(provider)
    model = f"{PARENT}/models/{job_id}"
    option = deployments.options(model, job_id=job_id)[0]
    deployments.create(model, option, name=deployment_name(model))
    return model


def test_names_are_own_models_and_tunable_bases(provider: Provider, job_id: str) -> None:
    assert provider.models.names() == [f"{PARENT}/models/{job_id}", BASE]
    assert {(model.id, model.owned_by) for model in provider.models.all()} == {
        (f"{PARENT}/models/{job_id}", PARENT),
        (BASE, "accounts/fireworks"),
    }


def test_chat_with_base_needs_no_deployment(provider: Provider, host: FireworksServer) -> None:
    assert provider.models.chat(BASE, MESSAGES).text == f"answer of {BASE}"
    assert host.calls["GET /deployments"] == 0


def test_chat_with_tuned_model_says_that_it_is_not_deployed(provider: Provider, job_id: str) -> None:
    with pytest.raises(NotFoundError, match="not deployed") as caught:
        provider.models.chat(f"{PARENT}/models/{job_id}", MESSAGES)
    assert "ftpipe deployments create" in caught.value.hint


@pytest.mark.parametrize("short", [True, False], ids=["short", "path"])
def test_chat_tries_both_forms_of_the_name_once(
    provider: Provider, host: FireworksServer, job_id: str, short: bool
) -> None:
    """Sources disagree about the form, so the one that is known is found and used from then on."""
    host.accepts_short_chat_name = short
    model = deploy(provider, job_id)
    texts = [provider.models.chat(model, MESSAGES).text for _ in range(3)]
    assert [text.partition("#")[2].startswith("accounts/") for text in texts] == [not short] * 3
    assert host.calls["POST /inference/v1/chat/completions"] == (4 if short else 3)
    assert host.calls["GET /deployments"] == 1


@pytest.mark.parametrize("short", [True, False], ids=["short", "path"])
def test_chat_address_has_the_name_that_is_known(
    provider: Provider, host: FireworksServer, job_id: str, short: bool
) -> None:
    """For chats that are forwarded as they came; a base needs no look."""
    host.accepts_short_chat_name = short
    assert provider.models.chat_address(BASE).model == BASE
    assert host.calls["POST /inference/v1/chat/completions"] == 0
    address = provider.models.chat_address(deploy(provider, job_id))
    assert address.url == f"{host.base_url}/inference/v1/chat/completions"
    assert address.model.partition("#")[2].startswith("accounts/") is not short


def test_stream_tries_both_forms_of_the_name(provider: Provider, host: FireworksServer, job_id: str) -> None:
    host.accepts_short_chat_name = True
    model = deploy(provider, job_id)
    tuned, base = ("".join(piece.text for piece in provider.models.stream(name, MESSAGES)) for name in (model, BASE))
    assert tuned.startswith(f"answer of {model}#ftpipe-")
    assert base == f"answer of {BASE}"


def test_chat_waits_for_a_deployment_that_scales_up(host: FireworksServer, tmp_path: Path) -> None:
    """READY is no proof: a cold deployment answers 503, and the same request is sent again after a while."""
    slept: list[float] = []
    provider = fireworks_provider(host, sleep=slept.append)
    job = provider.jobs.create(request_of(provider, tmp_path / "t.jsonl"), key="k")
    wait_for_end(provider, job.id)
    model = deploy(provider, job.id)
    host.cold_answers = 3
    assert provider.models.chat(model, MESSAGES).text.startswith("answer of")
    assert [round(seconds) for seconds in slept] == [30, 30, 30]
    provider.close()


def test_options_tell_hardware_and_price_and_create_nothing(
    provider: Provider, host: FireworksServer, job_id: str
) -> None:
    options = deployments_of(provider).options(job_id, job_id=job_id)
    assert [(option.hardware, option.price_per_hour) for option in options] == [("1 × H100 80GB", 8.0)]
    assert host.deployments == {}


def test_options_of_unknown_model(provider: Provider, host: FireworksServer) -> None:
    with pytest.raises(NotFoundError):
        deployments_of(provider).options("nobodys", job_id="x")
    assert host.deployments == {}


def test_create_scales_to_zero_and_is_safe_to_repeat(provider: Provider, host: FireworksServer, job_id: str) -> None:
    """A lost answer, and the same call again: one deployment, which costs nothing without requests."""
    deployments = deployments_of(provider)
    option = deployments.options(job_id, job_id=job_id)[0]
    name = deployment_name(option.model)
    host.script(CREATE, LOST)
    with pytest.raises(OutcomeUnknownError):
        deployments.create(option.model, option, name=name)
    deployment = deployments.create(option.model, option, name=name)
    assert len(host.deployments) == 1
    created = host.deployments[f"{PARENT}/deployments/{name}"]
    assert (created["minReplicaCount"], created["autoscalingPolicy"]) == (0, {"scaleToZeroWindow": "300s"})
    assert (deployment.name, deployment.state, deployment.is_billed) == (name, "ready", True)
    assert RESOURCE_ID.fullmatch(name)


def test_list_and_stop(provider: Provider, host: FireworksServer, job_id: str) -> None:
    model = deploy(provider, job_id)
    deployments = deployments_of(provider)
    foreign = f"{PARENT}/deployments/theirs"
    host.deployments[foreign] = {"name": foreign, "baseModel": BASE, "state": "READY"}
    listed = deployments.list()
    assert [each.model for each in listed] == [model]
    for _ in range(2):
        stopped = deployments.stop(listed[0].name)
        assert (stopped.state, stopped.is_billed) == ("stopped", False)
    assert host.deployments[foreign]["state"] == "READY"
    with pytest.raises(NotFoundError):
        deployments.stop("nobodys")


def test_create_after_stop_restores_the_deployment(provider: Provider, host: FireworksServer, job_id: str) -> None:
    """The id of a deleted deployment is taken for a while, so the old one is used again."""
    model = deploy(provider, job_id)
    deployments_of(provider).stop(deployment_name(model))
    deploy(provider, job_id)
    assert [fields["state"] for fields in host.deployments.values()] == ["READY"]
    assert host.calls["POST /deployments/{deployment}:undelete"] == 1


def test_deployment_of_unknown_state_counts_as_billed(provider: Provider, host: FireworksServer, job_id: str) -> None:
    deploy(provider, job_id)
    for fields in host.deployments.values():
        fields["state"] = "UPDATING"
    assert deployments_of(provider).list()[0].is_billed
    for fields in host.deployments.values():
        fields |= {"state": "READY", "maxReplicaCount": 0}
    assert not deployments_of(provider).list()[0].is_billed


def test_delete_model(provider: Provider, host: FireworksServer, job_id: str) -> None:
    provider.models.delete(f"{PARENT}/models/{job_id}")
    assert f"{PARENT}/models/{job_id}" not in host.models
    with pytest.raises(NotFoundError):
        provider.models.delete(job_id)


@pytest.mark.parametrize("model", ["a/b/c", "accounts/x/jobs/y", "Ä", "accounts/../models/x"])
def test_require_base_of_another_form_sends_nothing(provider: Provider, host: FireworksServer, model: str) -> None:
    with pytest.raises(NotFoundError):
        provider.models.require_base(model)
    assert not host.requests
