"""A script for OpenAI's fine-tuning API, unchanged, at a gateway to another host; with OpenAI's own client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
import time_machine

from ftpipe.cli.serve_providers import job_limits
from ftpipe.errors import UsageError
from ftpipe.gateway.upstream import ProviderUpstream
from ftpipe.gateway.upstream_jobs import JobLimits
from ftpipe.providers.profiles import Profile, find_profile
from ftpipe.registry import open_registry
from tests.fakes.scripted_server import LOST, refusal
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import KEY, provider_at
from tests.gateway.live_server import LiveServer
from tests.gateway.upstream_environment import MODEL, CheckInProcess, create, lines, wait_for, wait_until

NO_LIMITS = JobLimits(per_job=None, total=None)
MakeGateway = Callable[..., LiveServer]


@pytest.fixture
def endpoint() -> Iterator[FaultEndpoint]:
    """The host behind the gateway, on a day on which it trains the base models that the tests name."""
    with time_machine.travel(datetime(2026, 11, 24, 12, tzinfo=UTC), tick=True), FaultEndpoint(key=KEY) as running:
        yield running


def profile_of(endpoint: FaultEndpoint, **changes: Any) -> Profile:
    """The profile of the host."""
    return provider_at(endpoint.base_url, **changes).profile


@pytest.fixture
def make_gateway(tmp_path: Path, endpoint: FaultEndpoint) -> Iterator[MakeGateway]:
    """Starts gateways on one data folder; all are stopped in the end."""
    with ExitStack() as stack:

        def make(limits: JobLimits = NO_LIMITS, *, table: dict[str, Any] | None = None, **changes: Any) -> LiveServer:
            profile = profile_of(endpoint, **(table or {}))
            upstream = ProviderUpstream(
                profile=profile,
                open_provider=lambda: provider_at(endpoint.base_url, **(table or {})),
                default_model=profile.default_model or MODEL,
                limits=limits,
                key=KEY,
                start_validation=lambda job, directory: CheckInProcess(job, directory, target=profile.target),
            )
            settings = {"poll_interval": 0.02, "upstream": "test", **changes}
            return stack.enter_context(LiveServer(tmp_path, behind=upstream, **settings))

        yield make


def test_script_trains_and_chats_at_upstream(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    """Files, job, events, checkpoints, result and chat; the host sees one file, one job, and its own names."""
    client = make_gateway().client()
    validation = client.files.create(file=("valid.jsonl", lines(14)[-400:].partition(b"\n")[2]), purpose="fine-tune")
    hyperparameters = {"n_epochs": 3, "learning_rate_multiplier": 2.0}
    job = create(
        client,
        validation_file=validation.id,
        suffix="Support",
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    done = wait_for(client, job.id, "succeeded")
    assert (done.id, done.model, done.trained_tokens, done.training_file) == (job.id, MODEL, 1200, job.training_file)
    assert done.fine_tuned_model == f"ft:{MODEL}:test:support:{job.id[-8:]}"
    assert done.metadata == {"team": "a"}
    (sent,) = endpoint.bodies
    assert (sent["model"], sent["suffix"], "seed" in sent, sent["metadata"]["team"]) == (MODEL, "Support", False, "a")
    assert sent["method"]["supervised"]["hyperparameters"] == hyperparameters
    assert endpoint.contents[sent["training_file"]] == lines()
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert {"Step 1/8: training loss=1.00", "The job has successfully completed"} <= {event.message for event in events}
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert b"train_loss" in client.files.content(done.result_files[0]).read() or done.result_files
    answer = client.chat.completions.create(model=done.fine_tuned_model, messages=[{"role": "user", "content": "hi"}])
    assert (answer.model, answer.choices[0].message.content) == (done.fine_tuned_model, "good day")
    assert endpoint.chats[0]["model"] == f"ft:{MODEL}:org-test::0001"
    assert done.fine_tuned_model in [model.id for model in client.models.list()]


def test_same_file_is_uploaded_once_and_each_job_created_once(
    make_gateway: MakeGateway, endpoint: FaultEndpoint
) -> None:
    """Two jobs of a client are two jobs, as at OpenAI."""
    client = make_gateway().client()
    first, second = create(client), create(client)
    for job in (first, second):
        wait_for(client, job.id, "succeeded")
    assert (len(endpoint.files), len(endpoint.jobs)) == (1, 2)


def test_lost_response_to_create_makes_one_job(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    endpoint.script("POST /fine_tuning/jobs", LOST)
    client = make_gateway().client()
    wait_for(client, create(client).id, "succeeded")
    assert (endpoint.calls["POST /fine_tuning/jobs"], len(endpoint.jobs)) == (1, 1)


def test_restarted_gateway_continues(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    """The job went on at the host; nothing is created again."""
    endpoint.statuses = ("running",)
    first = make_gateway()
    job = create(first.client())
    wait_for(first.client(), job.id, "running")
    first.stop()
    endpoint.statuses = ("succeeded",)
    second = make_gateway()
    assert wait_for(second.client(), job.id, "succeeded").fine_tuned_model
    assert len(endpoint.jobs) == 1


@pytest.mark.parametrize("limits", [JobLimits(per_job=0.00001, total=None), JobLimits(per_job=None, total=0.00001)])
def test_job_over_limit_fails_and_nothing_is_sent(
    make_gateway: MakeGateway, endpoint: FaultEndpoint, limits: JobLimits
) -> None:
    client = make_gateway(limits).client()
    job = wait_for(client, create(client).id, "failed")
    assert job.error is not None
    assert job.error.code == "exceeded_quota"
    assert (endpoint.files, endpoint.jobs) == ({}, {})


def test_jobs_over_total_limit_fail_also_after_restart(
    make_gateway: MakeGateway, endpoint: FaultEndpoint, tmp_path: Path
) -> None:
    """The first job counts with what it may cost, or what it has cost."""
    first = make_gateway()
    job = create(first.client(), hyperparameters={"n_epochs": 3})
    wait_for(first.client(), job.id, "succeeded")
    first.stop()
    registry = open_registry(tmp_path / "data" / "gateway.db", read_only=True)
    (run,) = registry.runs.recent()
    assert run.cost is not None and run.cost.high is not None and run.model is not None
    spent = run.model.actual_cost
    assert spent is not None
    second = make_gateway(JobLimits(per_job=None, total=spent + 0.9 * run.cost.high))
    failed = create(second.client(), hyperparameters={"n_epochs": 3})
    error = wait_for(second.client(), failed.id, "failed").error
    assert error is not None and error.code == "exceeded_quota"
    assert len(endpoint.jobs) == 1


def test_bad_file_fails_before_anything_is_sent(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    """By the rules of the host, with the line."""
    client = make_gateway().client()
    job = wait_for(client, create(client, lines(bad=2)).id, "failed")
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "line 13" in job.error.message
    assert endpoint.files == {}


def test_refusal_of_host_fails_job_without_key_and_address(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    message = f"no such thing with {KEY} at {endpoint.base_url}"
    endpoint.script("POST /fine_tuning/jobs", refusal(400, message=message))
    client = make_gateway().client()
    job = wait_for(client, create(client).id, "failed")
    text = job.to_json() + "".join(event.message for event in client.fine_tuning.jobs.list_events(job.id))
    assert "no such thing" in text
    assert KEY not in text
    assert endpoint.base_url not in text
    assert str(endpoint.port) not in job.to_json()


def test_job_that_fails_at_host_fails_with_its_reason(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    endpoint.statuses = ("running", "failed")
    endpoint.job_error = {"code": "unsafe_file", "message": "flagged", "param": None}
    client = make_gateway().client()
    job = wait_for(client, create(client).id, "failed")
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("unsafe_file", "flagged")


@pytest.mark.slow
def test_unreachable_host_is_tried_again(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    """The job stays queued meanwhile; a status that ftpipe does not know changes nothing either."""
    endpoint.statuses = ("running", "paused_by_host", "succeeded")
    endpoint.script("GET /files", *[refusal(500)] * 6)
    client = make_gateway().client()
    wait_for(client, create(client).id, "succeeded")


def test_cancelled_job_is_cancelled_at_host(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    endpoint.statuses = ("running",)
    client = make_gateway().client()
    job = create(client)
    wait_for(client, job.id, "running")
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_until(lambda: endpoint.calls["POST /fine_tuning/jobs/{id}/cancel"] == 1)
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.pause(job.id)


def test_job_cancelled_during_upload_is_never_created(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    """And costs nothing of the budget."""
    client = make_gateway().client()
    jobs: list[str] = []

    def cancel(route: str) -> None:
        if route == "POST /files":
            client.fine_tuning.jobs.cancel(jobs[0])

    def hold(route: str) -> None:
        if route == "GET /files":
            wait_until(lambda: bool(jobs))

    endpoint.before, endpoint.after = hold, cancel
    jobs.append(create(client).id)
    wait_until(lambda: endpoint.calls["POST /files"] == 1)
    other = create(client)
    endpoint.after = lambda _route: None
    wait_for(client, other.id, "succeeded")
    assert len(endpoint.jobs) == 1
    assert client.fine_tuning.jobs.retrieve(jobs[0]).status == "cancelled"


def test_owners_are_separated(make_gateway: MakeGateway, tmp_path: Path) -> None:
    """Files, jobs, models and chat."""
    keys = tmp_path / "keys"
    keys.write_text("anna:aaaaaaaaaaaaaaaaaaaa\nbert:bbbbbbbbbbbbbbbbbbbb\n", encoding="utf-8")
    keys.chmod(0o600)
    gateway = make_gateway(api_key_file=keys)
    anna, bert = gateway.client("a" * 20), gateway.client("b" * 20)
    job = wait_for(anna, create(anna).id, "succeeded")
    assert job.fine_tuned_model is not None
    assert (list(bert.files.list()), list(bert.fine_tuning.jobs.list())) == ([], [])
    assert job.fine_tuned_model not in [model.id for model in bert.models.list()]
    for call in (
        lambda: bert.fine_tuning.jobs.retrieve(job.id),
        lambda: bert.fine_tuning.jobs.cancel(job.id),
        lambda: bert.chat.completions.create(model=str(job.fine_tuned_model), messages=[]),
        lambda: bert.chat.completions.create(model=f"ft:{MODEL}:org-test::0001", messages=[]),
    ):
        with pytest.raises(openai.NotFoundError):
            call()


def test_openai_name_stands_for_default_base_of_other_host(make_gateway: MakeGateway, endpoint: FaultEndpoint) -> None:
    """The job says so; chats with other base models of the host are refused."""
    table = {"target": "nebius", "default_model": "meta-llama/Llama-3.1-8B-Instruct", "metadata_stored": True}
    client = make_gateway(table=table).client()
    job = create(client, model="gpt-4o-mini")
    assert job.model == "meta-llama/Llama-3.1-8B-Instruct"
    done = wait_for(client, job.id, "succeeded")
    assert endpoint.bodies[0]["model"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert str(done.fine_tuned_model).startswith("ft:meta-llama--Llama-3.1-8B-Instruct:test:")
    client.chat.completions.create(model="gpt-4o-mini", messages=[])
    assert endpoint.chats[0]["model"] == "meta-llama/Llama-3.1-8B-Instruct"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="some/other-model", messages=[])


def test_losses_are_not_computed_by_a_gateway(make_gateway: MakeGateway) -> None:
    with pytest.raises(openai.NotFoundError):
        make_gateway().client().post("/ftpipe/losses", cast_to=object, body={})


def test_paid_provider_needs_a_total_limit() -> None:
    """A limit of a single job does not bound what many jobs cost."""
    paid = find_profile("openai")
    for limits in ((None, None), (1.0, None)):
        with pytest.raises(UsageError, match="without a limit"):
            job_limits(paid, *limits, no_cost_limit=False)
    with pytest.raises(UsageError, match="--no-cost-limit"):
        job_limits(paid, None, 5.0, no_cost_limit=True)
    assert job_limits(paid, 1.0, 5.0, no_cost_limit=False) == JobLimits(1.0, 5.0)
    assert job_limits(paid, None, None, no_cost_limit=True) == NO_LIMITS
