"""Deployments at Together: created once under one name, found again, routed to, and stopped."""

from __future__ import annotations

import pytest

from ftpipe.errors import ConfigError, NotFoundError, OutcomeUnknownError
from ftpipe.providers.interface import Deployments
from ftpipe.providers.provider import Provider
from ftpipe.records.deployment import deployment_name
from tests.fakes.scripted_server import LOST, refusal
from tests.fakes.together import BASE, TogetherServer

CREATE = "POST /v2/projects/{id}/endpoints/{id}/deployments"


@pytest.fixture
def model(server: TogetherServer, provider: Provider) -> tuple[str, str]:
    """The name and the job of a tuned model."""
    server.statuses = ("completed",)
    job = provider.jobs.get(server.seed_job(suffix="support")["id"])
    return job.fine_tuned_model or "", job.id


@pytest.fixture
def deployments(provider: Provider) -> Deployments:
    """The provider's deployments."""
    assert provider.deployments is not None
    return provider.deployments


def create(deployments: Deployments, model: tuple[str, str]) -> str:
    name, job_id = model
    option = deployments.options(name, job_id=job_id)[0]
    return deployments.create(name, option, name=deployment_name(name)).chat_model


def test_options_have_prices_and_the_cheapest_first(deployments: Deployments, model: tuple[str, str]) -> None:
    """The configurations come in pages, their prices from the list of hardware, in cents."""
    options = deployments.options(model[0], job_id=model[1])
    assert [(one.hardware, one.price_per_hour) for one in options] == [("1x H100", 5.49), ("1x B200", 11.99)]
    assert options[0].id == "projects/proj_public/configs/cr_1"


def test_options_are_empty_if_the_model_cannot_be_served(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str]
) -> None:
    """Some bases cannot."""
    server.is_servable = False
    assert deployments.options(model[0], job_id=model[1]) == []
    server.jobs[model[1]]["model_object_id"] = None
    server.statuses = ("running",)
    assert deployments.options(model[0], job_id=model[1]) == []


def test_create_is_checked_first_and_made_once(
    server: TogetherServer, provider: Provider, deployments: Deployments, model: tuple[str, str]
) -> None:
    """Repeating it finds what exists by its name."""
    name = create(deployments, model)
    assert name == f"team/{deployment_name(model[0])}"
    assert create(deployments, model) == name
    assert (len(server.endpoints), len(server.deployments)) == (1, 1)
    assert server.calls[CREATE] == 2  # the check that creates nothing, and the call itself
    assert server.endpoints["ep_1"]["trafficSplit"] == [{"deploymentId": "dep_1", "weight": 1}]


@pytest.mark.parametrize("lost", ["POST /v2/projects/{id}/endpoints", CREATE])
def test_create_after_lost_response_makes_no_second_one(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str], lost: str
) -> None:
    """Endpoint and deployment are looked for before they are created."""
    server.script(lost, *([None, LOST] if lost == CREATE else [LOST]))
    with pytest.raises((OutcomeUnknownError, Exception)):
        create(deployments, model)
    create(deployments, model)
    assert (len(server.endpoints), len(server.deployments)) == (1, 1)


def test_chat_with_tuned_model_goes_to_its_deployment(
    server: TogetherServer, provider: Provider, deployments: Deployments, model: tuple[str, str]
) -> None:
    """A base model answers without one."""
    create(deployments, model)
    assert [one.state for one in deployments.list()] == ["ready"]
    answer = provider.models.chat(model[0], [{"role": "user", "content": "hi"}])
    assert answer.text == f"answer of team/{deployment_name(model[0])}"
    assert provider.models.chat(BASE, [{"role": "user", "content": "hi"}]).text == f"answer of {BASE}"


def test_chat_without_deployment_is_not_found(provider: Provider, model: tuple[str, str]) -> None:
    """Together knows no such model then."""
    for answer in (provider.models.chat, lambda *args: list(provider.models.stream(*args))):
        with pytest.raises(NotFoundError) as caught:
            answer(model[0], [{"role": "user", "content": "hi"}])
        assert f"ftpipe deployments create {model[0]}" in (caught.value.hint or "")


def test_stop_scales_to_zero_and_deletes(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str]
) -> None:
    """Deployment and endpoint; a running deployment cannot be deleted."""
    create(deployments, model)
    stopped = deployments.stop(deployment_name(model[0]))
    assert (stopped.state, stopped.is_billed) == ("stopped", False)
    assert (server.endpoints, server.deployments) == ({}, {})
    with pytest.raises(NotFoundError):
        deployments.stop(deployment_name(model[0]))


def test_stop_can_be_repeated_after_an_error(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str]
) -> None:
    """It continues where it was."""
    create(deployments, model)
    server.script("DELETE /v2/projects/{id}/endpoints/{id}", refusal(500))
    with pytest.raises(Exception, match="500"):
        deployments.stop(deployment_name(model[0]))
    assert deployments.stop(deployment_name(model[0])).state == "stopped"
    assert server.endpoints == {}


def test_stopped_deployment_is_started_again(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str]
) -> None:
    """After an hour without requests it stops by itself."""
    create(deployments, model)
    server.deployments["dep_1"]["status"]["state"] = "DEPLOYMENT_STATE_STOPPED"
    create(deployments, model)
    assert [one.state for one in deployments.list()] == ["ready"]
    assert len(server.deployments) == 1


def test_key_of_several_projects_needs_the_variable(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str]
) -> None:
    """The error names it."""
    server.project_type = "org_api_key"
    with pytest.raises(ConfigError, match="no single project") as caught:
        deployments.list()
    assert "TOGETHER_PROJECT_ID" in (caught.value.hint or "")


def test_endpoints_of_others_are_left_alone(
    server: TogetherServer, deployments: Deployments, model: tuple[str, str]
) -> None:
    """Only names of ftpipe's are listed and stopped."""
    server.endpoints["ep_9"] = {"id": "ep_9", "name": "team/production", "trafficSplit": []}
    assert deployments.list() == []
    with pytest.raises(NotFoundError):
        deployments.stop("production")
