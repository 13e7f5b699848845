"""Bedrock: what its requests leave out, a file for each run, keys that expire, a list that is not trusted, chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import ConfigError, OutcomeUnknownError, UsageError
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.records import Hyperparameters, Method, Run, RunSpec, RunState
from tests.fakes.bedrock import MODEL, BedrockEndpoint
from tests.fakes.records import report_of
from tests.fakes.scripted_server import LOST, NEVER, RESET, Fault, refusal
from tests.faults.environment import KEY, FaultEnvironment

CREATE = "POST /fine_tuning/jobs"
LIST = "GET /fine_tuning/jobs"
GRADER = {"type": "lambda", "lambda": {"function": "arn:aws:lambda:us-west-2:123456789012:function:grade"}}
QUICK = {"list_lag_seconds": 0.2, "poll_first_seconds": 0.01, "poll_max_seconds": 0.05, "request_timeout_seconds": 5.0}


def bedrock(
    base_url: str, env: dict[str, str], *, sleep: Callable[[float], None] = lambda _seconds: None, **profile: Any
) -> Provider:
    table = {**QUICK, "base_url": base_url, **profile}
    return open_openai(find_profile("bedrock", {"bedrock": table}), env, sleep=sleep)


class BedrockEnvironment(FaultEnvironment):
    """A user's folder with prompts, talking to Bedrock."""

    def plan(self, **values: Any) -> Any:
        """A plan for a run with a grader."""
        fields = {"provider": "bedrock", "data": self.dataset.path, "model": MODEL, "grader": GRADER, **values}
        spec = RunSpec(method=fields.pop("method", Method.REINFORCEMENT), **fields)
        report = report_of(self.dataset).model_copy(update={"target": "bedrock", "method": spec.method})
        return self.pipeline().plan_for(spec, report)

    def provider(self, sleep: Callable[[float], None], **profile: Any) -> Provider:
        """The local Bedrock as a provider."""
        return bedrock(self.base_url, {"AWS_BEARER_TOKEN_BEDROCK": self.key}, sleep=sleep, **profile)

    def run(self, *, force_new: bool = False, wait: bool = True, **values: Any) -> Run:
        """What ``ftpipe train`` does."""
        pipeline = self.pipeline()
        return pipeline.advance(pipeline.start(self.plan(**values), force_new=force_new), wait=wait, timeout=60)


@pytest.fixture
def endpoint() -> Iterator[BedrockEndpoint]:
    with BedrockEndpoint() as running:
        yield running


@pytest.fixture
def environment(endpoint: BedrockEndpoint, tmp_path: Path) -> Iterator[BedrockEnvironment]:
    opened = BedrockEnvironment(tmp_path, endpoint)
    yield opened
    opened.close()


def test_train_sends_nothing_that_bedrock_refuses(environment: BedrockEnvironment, endpoint: BedrockEndpoint) -> None:
    """No suffix, metadata, seed, validation file or integrations; the grader's Lambda form."""
    run = environment.run(hyperparameters=Hyperparameters(n_epochs=2, learning_rate_multiplier=0.5))
    assert run.state == RunState.REGISTERED
    assert endpoint.bodies == [
        {
            "model": MODEL,
            "training_file": "file-0001",
            "method": {
                "type": "reinforcement",
                "reinforcement": {
                    "hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5},
                    "grader": GRADER,
                },
            },
        }
    ]


@pytest.mark.parametrize("fault", [LOST, RESET, Fault(body=b"{}"), refusal(503, executed=True)], ids=str)
def test_create_finds_job_of_its_own_file(
    environment: BedrockEnvironment, endpoint: BedrockEndpoint, fault: Fault
) -> None:
    """Neither key nor metadata: the file is of this run alone, so its job is the run's job."""
    first = environment.run()
    endpoint.script(CREATE, fault)
    second = environment.run(force_new=True)
    assert (len(endpoint.files), len(endpoint.jobs), endpoint.calls[CREATE]) == (2, 2, 2)
    assert first.job is not None
    assert second.job is not None
    assert (first.job.id, second.job.id) == ("ftjob-0001", "ftjob-0002")
    assert environment.run().id == second.id


def test_create_repeats_unexecuted_call(environment: BedrockEnvironment, endpoint: BedrockEndpoint) -> None:
    environment.run()
    endpoint.script(CREATE, NEVER)
    assert environment.run(force_new=True).state == RunState.REGISTERED
    assert (len(endpoint.jobs), endpoint.calls[CREATE]) == (2, 3)


def test_upload_is_not_repeated_within_a_run(environment: BedrockEnvironment, endpoint: BedrockEndpoint) -> None:
    """Killed after the upload: the run's own file is found by its name, and not sent again."""
    endpoint.script("POST /files", LOST)
    endpoint.script(CREATE, refusal(401))
    with pytest.raises(Exception, match="refused the key"):
        environment.run()
    assert environment.pipeline().resume(timeout=60).state == RunState.REGISTERED
    assert (len(endpoint.files), len(endpoint.jobs)) == (1, 1)
    assert next(iter(endpoint.files.values()))["filename"].endswith(
        f"-{environment.registry.runs.latest().id}.jsonl"  # type: ignore[union-attr]
    )


def test_status_of_the_list_is_not_trusted(environment: BedrockEnvironment, endpoint: BedrockEndpoint) -> None:
    """The list calls each job failed; neither a found job nor ``jobs list`` takes that as true."""
    endpoint.script(CREATE, LOST)
    run = environment.run(wait=False)
    assert run.job is not None
    assert run.job.status == "unknown"
    assert not run.job.is_finished
    assert environment.pipeline().resume(timeout=60).state == RunState.REGISTERED


def test_create_sends_nothing_while_list_is_unreadable(
    environment: BedrockEnvironment, endpoint: BedrockEndpoint
) -> None:
    endpoint.script(CREATE, LOST)
    endpoint.before = lambda route: endpoint.always(LIST, refusal(503)) if route == CREATE else None
    with pytest.raises(OutcomeUnknownError):
        environment.run()
    assert endpoint.calls[CREATE] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"suffix": "mine"}, "suffix"),
        ({"seed": 7}, "seed"),
        ({"validation": Path("v.jsonl")}, "validation"),
        ({"integrations": ({"type": "wandb"},)}, "integrations"),
        ({"method": Method.SUPERVISED}, "method supervised"),
        ({"grader": None}, "grader"),
    ],
)
def test_plan_refuses_what_bedrock_does_not_take(
    environment: BedrockEnvironment, endpoint: BedrockEndpoint, values: dict[str, Any], message: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(UsageError, match=message) as caught:
        environment.plan(**values).raise_blocker()
    assert caught.value.hint
    assert endpoint.requests == []


def test_key_is_read_for_each_call(endpoint: BedrockEndpoint) -> None:
    """Short-term keys expire while a job is polled; the next call has the new one."""
    env = {"AWS_BEARER_TOKEN_BEDROCK": KEY}
    provider = bedrock(endpoint.base_url, env)
    provider.models.names()
    env["AWS_BEARER_TOKEN_BEDROCK"] = "another-short-term-key"
    provider.models.names()
    keys = [headers["authorization"] for headers in endpoint.requests]
    assert keys == [f"Bearer {KEY}", "Bearer another-short-term-key"]
    env["AWS_BEARER_TOKEN_BEDROCK"] = "a-third-short-term-key"
    assert provider.models.chat_address(MODEL).headers["Authorization"] == "Bearer a-third-short-term-key"
    provider.close()


def test_chat_with_tuned_model_at_the_same_base(environment: BedrockEnvironment, endpoint: BedrockEndpoint) -> None:
    run = environment.run()
    assert run.model is not None
    provider = bedrock(endpoint.base_url, {"AWS_BEARER_TOKEN_BEDROCK": KEY})
    completion = provider.models.chat(run.model.id, [{"role": "user", "content": "hi"}])
    assert completion.text == f"answer of {run.model.id}"
    provider.close()


def test_events_keep_rewards(environment: BedrockEnvironment) -> None:
    """The metrics of reinforcement have names of their own; they are kept with the event."""
    run = environment.run()
    assert run.job is not None
    data = [event.data for event in environment.registry.jobs.events(run.job.id)]
    assert data[-1]["critic_rewards_mean"] > 0


def test_region_has_to_be_named() -> None:
    """The region is part of the address, and ftpipe does not guess one."""
    with pytest.raises(ConfigError) as caught:
        open_openai(find_profile("bedrock"), {"AWS_BEARER_TOKEN_BEDROCK": KEY})
    assert "BEDROCK_BASE_URL" in caught.value.hint
