"""A script for OpenAI's fine-tuning API, unchanged, at a gateway to hosts that have an API of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from ftpipe.gateway.upstream import ProviderUpstream
from ftpipe.gateway.upstream_jobs import JobLimits
from ftpipe.providers.provider import Provider
from ftpipe.records.deployment import deployment_name
from ftpipe.registry import open_registry
from tests.fakes import fireworks, together
from tests.faults.environment import KEY
from tests.faults.fireworks_environment import fireworks_provider
from tests.faults.together_environment import together_at
from tests.gateway.live_server import LiveServer
from tests.gateway.upstream_environment import CheckInProcess, create, wait_for

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@contextmanager
def gateway_to(folder: Path, open_provider: Callable[[], Provider], base: str) -> Iterator[openai.OpenAI]:
    """A client of a gateway to a host."""
    profile = open_provider().profile
    upstream = ProviderUpstream(
        profile=profile,
        open_provider=open_provider,
        default_model=base,
        limits=JobLimits(per_job=10.0, total=20.0),
        key=KEY,
        start_validation=lambda job, directory: CheckInProcess(job, directory, target=profile.target),
    )
    with LiveServer(folder, behind=upstream, upstream=profile.name, poll_interval=0.02) as server:
        yield server.client()


def test_script_trains_and_chats_at_together(tmp_path: Path) -> None:
    """Through its own API: the base stands for OpenAI's, the rate for the multiplier, the deployment for the model."""
    with together.TogetherServer(key=KEY) as host:

        def opened() -> Provider:
            return together_at(host.base_url)

        with gateway_to(tmp_path, opened, together.BASE) as client:
            job = create(client, model="gpt-4o-mini", suffix="support", hyperparameters={"n_epochs": 2})
            done = wait_for(client, job.id, "succeeded")
            (sent,) = host.bodies
            assert (sent["model"], sent["n_epochs"], "learning_rate" in sent) == (together.BASE, 2, True)
            assert done.model == together.BASE
            assert str(done.fine_tuned_model).startswith("ft:Qwen--Qwen3.5-9B:together:support:")
            events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
            assert any("learning rate" in event for event in events)
            registry = open_registry(tmp_path / "data" / "gateway.db", read_only=True)
            (model,) = registry.models.recent()
            deployments = opened().deployments
            assert deployments is not None
            option = deployments.options(model.id, job_id=model.job_id)[0]
            deployed = deployments.create(model.id, option, name=deployment_name(model.id))
            answer = client.chat.completions.create(model=str(done.fine_tuned_model), messages=MESSAGES)
            assert answer.model == done.fine_tuned_model
            assert answer.choices[0].message.content == f"answer of {deployed.chat_model}"
        assert host.violations == []


@pytest.mark.slow
def test_chat_with_model_that_is_not_deployed_says_so(tmp_path: Path) -> None:
    with (
        together.TogetherServer(key=KEY) as host,
        gateway_to(tmp_path, lambda: together_at(host.base_url), together.BASE) as client,
    ):
        done = wait_for(client, create(client, model="gpt-4o-mini").id, "succeeded")
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model=str(done.fine_tuned_model), messages=MESSAGES)
        assert (raised.value.status_code, raised.value.code) == (502, "model_unavailable")
        base = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        assert base.choices[0].message.content == f"answer of {together.BASE}"


def test_script_trains_at_fireworks(tmp_path: Path) -> None:
    """Each job once, with an id chosen by ftpipe."""
    with fireworks.FireworksServer(key=KEY) as host:
        with gateway_to(tmp_path, lambda: fireworks_provider(host), fireworks.BASE) as client:
            job = create(client, model="gpt-4o-mini", hyperparameters={"n_epochs": 2})
            done = wait_for(client, job.id, "succeeded")
            assert done.model == fireworks.BASE
            assert str(done.fine_tuned_model).startswith("ft:accounts--fireworks--models--qwen3-8b:fireworks:")
        assert len(host.jobs) == 1
