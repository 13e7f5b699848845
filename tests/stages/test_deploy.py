"""The deploy stage: the intent first, one deployment, whatever the network does, and what is billed is listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.errors import OutcomeUnknownError, RequestRefusedError
from ftpipe.providers.provider import Provider
from ftpipe.records import Model
from ftpipe.registry import Registry
from ftpipe.registry.database import open_engine
from ftpipe.stages.deploy import DeployModel
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.records import provider_over
from tests.fakes.scripted_server import LOST, NEVER, refusal
from tests.fakes.together import TogetherServer
from tests.faults.together_environment import together_at

ENDPOINTS = "POST /v2/projects/{id}/endpoints"
CREATE = "POST /v2/projects/{id}/endpoints/{id}/deployments"


@pytest.fixture
def server() -> Iterator[TogetherServer]:
    """A running local Together; no request was outside its description."""
    with TogetherServer(statuses=("completed",)) as running:
        yield running
        assert running.violations == []


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    opened = Registry(open_engine(str(tmp_path / "registry.db")))
    yield opened
    opened.close()


@pytest.fixture
def stage(server: TogetherServer, registry: Registry) -> Iterator[DeployModel]:
    """The stage for a model that was trained there."""
    clock = Clock()
    provider = together_at(server.base_url, sleep=clock.sleep)
    job = provider.jobs.get(server.seed_job(suffix="support")["id"])
    yield stage_of(provider, registry, clock, model_id=job.fine_tuned_model or "", job_id=job.id)
    provider.close()


def stage_of(provider: Provider, registry: Registry, clock: Clock, *, model_id: str, job_id: str) -> DeployModel:
    model = Model(
        id=model_id,
        base="b",
        provider=provider.profile.name,
        endpoint=provider.endpoint,
        job_id=job_id,
        file_id="file-1",
        dataset_sha256="0" * 64,
        created_at=0,
    )
    return DeployModel(model, provider, registry, sleep=clock.sleep, clock=clock)


def test_deploy_is_journalled_and_listed_until_it_is_stopped(stage: DeployModel, registry: Registry) -> None:
    """With its price, before the host has answered and after."""
    option = stage.options()[0]
    deployment = stage.wait_until_ready(stage.run(option))
    assert (deployment.state, deployment.price_per_hour, deployment.model) == ("ready", 5.49, stage.model.id)
    assert [one.is_billed for one in registry.deployments.recent()] == [True]
    assert stage.existing() == registry.deployments.recent()[0]
    assert stage.stop().state == "stopped"
    assert [one.is_billed for one in registry.deployments.recent()] == [False]
    assert stage.existing() is None


@pytest.mark.parametrize("fault", [LOST, NEVER, refusal(503), refusal(503, executed=True), refusal(409)])
@pytest.mark.parametrize("route", [ENDPOINTS, CREATE])
def test_deploy_makes_one_deployment(
    server: TogetherServer, stage: DeployModel, registry: Registry, route: str, fault: object
) -> None:
    """An answer that was lost is looked for by name before anything is sent again."""
    server.script(route, *([None] if route == CREATE else []), fault)  # type: ignore[arg-type]
    deployment = stage.run(stage.options()[0])
    assert (len(server.endpoints), len(server.deployments)) == (1, 1)
    assert deployment.id == "dep_1"


def test_deploy_that_stays_unknown_is_listed_as_billed(
    server: TogetherServer, stage: DeployModel, registry: Registry
) -> None:
    """The next command finds it and confirms the call."""
    option = stage.options()[0]
    server.always("GET /v2/projects/{id}/endpoints/{id}/deployments", None)
    server.script(CREATE, None, LOST)
    server.always("PATCH /v2/projects/{id}/endpoints/{id}", LOST)
    with pytest.raises(Exception, match="route requests"):
        stage.run(option)
    server.always("PATCH /v2/projects/{id}/endpoints/{id}", None)
    found = stage.existing()
    assert found is not None
    assert found.is_billed
    assert len(server.deployments) == 1


def test_deploy_three_lost_answers_are_an_unknown_outcome(
    server: TogetherServer, stage: DeployModel, registry: Registry
) -> None:
    """Exit 7; it may be billed, and is listed so."""
    option = stage.options()[0]
    server.always(ENDPOINTS, NEVER)
    with pytest.raises(OutcomeUnknownError):
        stage.run(option)
    assert [(one.state, one.is_billed) for one in registry.deployments.recent()] == [("requested", True)]


def test_deploy_refused_is_not_billed(server: TogetherServer, stage: DeployModel, registry: Registry) -> None:
    """The free check refuses it before anything exists."""
    option = stage.options()[0]
    server.always(CREATE, refusal(400))
    with pytest.raises(RequestRefusedError):
        stage.run(option)
    assert [one.is_billed for one in registry.deployments.recent()] == [False]
    assert server.deployments == {}


def test_deploy_again_after_a_stop_is_a_new_call(
    server: TogetherServer, stage: DeployModel, registry: Registry
) -> None:
    """With a key of its own."""
    option = stage.options()[0]
    stage.run(option)
    stage.stop()
    stage.run(option)
    assert len(server.deployments) == 1


def test_deploy_where_nothing_can_be_deployed_is_refused(registry: Registry) -> None:
    """OpenAI serves tuned models by itself."""
    stage = stage_of(provider_over(FakeOpenAI()), registry, Clock(), model_id="ft:m", job_id="ftjob-1")
    with pytest.raises(RequestRefusedError, match="nothing is deployed at OpenAI"):
        stage.options()


def test_deploy_model_that_cannot_be_served_names_the_download(server: TogetherServer, stage: DeployModel) -> None:
    """Its weights can be served elsewhere."""
    server.is_servable = False
    with pytest.raises(RequestRefusedError) as caught:
        stage.options()
    assert "ftpipe models download" in (caught.value.hint or "")
