"""The rows of the fault table on a local Together, whose jobs carry a part of the key in their suffix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.errors import (
    AuthenticationError,
    CostLimitError,
    DatasetError,
    FtpipeError,
    JobFailedError,
    OutcomeUnknownError,
    ProviderError,
    QuotaError,
    StillRunningError,
)
from ftpipe.records import RunState
from tests.fakes.scripted_server import LOST, NEVER, RESET, Fault, busy, refusal
from tests.fakes.together import BASE, TogetherServer
from tests.faults.environment import KEY, ONE_OF_EACH
from tests.faults.together_environment import TogetherEnvironment

CREATE = "POST /v1/fine-tunes"
LIST = "GET /v1/fine-tunes"


@pytest.fixture
def together() -> Iterator[TogetherServer]:
    """A running local Together; no request was outside its description."""
    with TogetherServer(key=KEY, price=0.02) as running:
        yield running
        assert running.violations == []


@pytest.fixture
def user(together: TogetherServer, tmp_path: Path) -> Iterator[TogetherEnvironment]:
    """A user's folder."""
    environment = TogetherEnvironment(tmp_path, together)  # type: ignore[arg-type]  # see the class
    yield environment
    environment.close()


def test_together_run_registers_the_model(together: TogetherServer, user: TogetherEnvironment) -> None:
    """From the plan to the model, with what the host says about its price."""
    run = user.train()
    assert run.model is not None
    assert run.model.id.startswith("team/Qwen3.5-9B-support-")
    assert (run.model.actual_cost, run.model.base, run.model.trained_tokens) == (4.0, BASE, 1200)
    assert run.spec.hyperparameters.learning_rate == 1e-5
    assert [one.step for one in run.model.checkpoints] == [4, 8]
    assert user.counts() == ONE_OF_EACH
    assert user.train().model == run.model
    assert user.counts() == ONE_OF_EACH


@pytest.mark.parametrize(
    "fault",
    [
        LOST,
        RESET,
        refusal(500, executed=True),
        refusal(502, executed=True),
        refusal(503, executed=True),
        refusal(408, executed=True),
        refusal(409, executed=True),
        Fault(body=b"{"),
        Fault(body=b"[]"),
        Fault(body=b'{"id": 3}'),
        Fault(then="cut"),
    ],
)
def test_together_create_finds_job_after_lost_response(
    together: TogetherServer, user: TogetherEnvironment, fault: Fault
) -> None:
    """Rows 2, 7, 8, 9: one POST, one job."""
    together.script(CREATE, fault)
    assert user.train().state == RunState.REGISTERED
    assert together.calls[CREATE] == 1
    assert user.counts() == ONE_OF_EACH


@pytest.mark.parametrize("shows_suffix", [True, False])
def test_together_create_finds_job_in_a_slow_list(
    together: TogetherServer, user: TogetherEnvironment, *, shows_suffix: bool
) -> None:
    """Also if the list does not show the suffix: by file, model, seed and time."""
    together.list_lag, together.lists_suffix = 0.15, shows_suffix
    together.script(CREATE, LOST)
    user.train()
    assert user.counts() == ONE_OF_EACH


@pytest.mark.parametrize("shows_suffix", [True, False])
def test_together_create_ignores_jobs_of_others(
    together: TogetherServer, user: TogetherEnvironment, *, shows_suffix: bool
) -> None:
    """A job on the same file, base and seed that existed before is not taken for the new one."""
    together.lists_suffix = shows_suffix
    other = together.seed_job(training_file="file-0001", suffix="support", random_seed=7)
    together.script(CREATE, LOST)
    run = user.train()
    assert run.job is not None
    assert run.job.id != other["id"]
    assert len(together.jobs) == 2


def test_together_force_new_makes_a_second_job(together: TogetherServer, user: TogetherEnvironment) -> None:
    """Its key is another one, so the first job is not taken for it, even if the answer is lost."""
    first = user.train()
    together.script(CREATE, LOST)
    second = user.train(force_new=True)
    assert first.job is not None
    assert second.job is not None
    assert first.job.id != second.job.id
    assert len(together.jobs) == 2


def test_together_lost_registry_finds_the_job(
    together: TogetherServer, user: TogetherEnvironment, tmp_path: Path
) -> None:
    """A colleague, or a new registry: the same data and parameters are the same job."""
    user.train()
    with TogetherEnvironment(tmp_path / "second", together) as second:  # type: ignore[arg-type]  # see the class
        second.train()
    assert len(together.jobs) == 1


@pytest.mark.parametrize("fault", [NEVER, refusal(500), refusal(503)])
def test_together_create_repeats_unexecuted_call_after_search(
    together: TogetherServer, user: TogetherEnvironment, fault: Fault
) -> None:
    """Row 7: the list must have shown it and did not."""
    together.script(CREATE, fault)
    user.train()
    assert together.calls[CREATE] == 2
    assert user.counts() == ONE_OF_EACH


def test_together_create_sends_nothing_while_list_is_unreadable(
    together: TogetherServer, user: TogetherEnvironment
) -> None:
    """Row 7: exit 7, and the next command finds the job."""
    together.script(CREATE, LOST)
    together.script(LIST, None, None)  # before the call
    together.always(LIST, refusal(500))
    with pytest.raises(OutcomeUnknownError):
        user.train()
    together.always(LIST, None)
    assert user.resume().state == RunState.REGISTERED
    assert together.calls[CREATE] == 1


def test_together_two_jobs_with_one_key_uses_the_oldest(together: TogetherServer, user: TogetherEnvironment) -> None:
    """Row 15: the user hears of the other one."""
    together.script(CREATE, LOST)

    def duplicate(route: str) -> None:
        if route == CREATE:
            together.after = lambda _route: None
            together.seed_job(**{**together.bodies[0], "created_at": "2030-01-01T00:00:00Z"})

    together.after = duplicate
    run = user.train()
    assert run.job is not None
    assert run.job.id == "ft-0001"
    assert any("ft-0002 is a second job" in text for text in user.recorded.messages)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (refusal(402, "insufficient_balance"), QuotaError),
        (refusal(401), AuthenticationError),
        (refusal(403), AuthenticationError),
        (refusal(400), ProviderError),
        (refusal(422), ProviderError),
        (busy(retry_after="300"), ProviderError),
    ],
)
def test_together_refused_job_surely_does_not_exist(
    together: TogetherServer, user: TogetherEnvironment, fault: Fault, error: type[FtpipeError]
) -> None:
    """Rows 6 and 16: nothing is repeated, and the run continues later."""
    together.script(CREATE, fault)
    with pytest.raises(error):
        user.train()
    assert (together.calls[CREATE], len(together.jobs)) == (1, 0)
    assert user.resume().state == RunState.REGISTERED
    assert user.counts() == ONE_OF_EACH


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        ("POST /v1/files", LOST),
        ("POST /v1/files", NEVER),
        ("POST /v1/files", refusal(500, executed=True)),
        ("PUT /storage/{id}", LOST),
        ("PUT /storage/{id}", NEVER),
        ("PUT /storage/{id}", RESET),
        ("POST /v1/files/{id}/preprocess", LOST),
        ("POST /v1/files/{id}/preprocess", NEVER),
        ("GET /v1/files", refusal(503)),
        ("GET /v1/files/{id}", refusal(429)),
        ("GET /v1/fine-tunes/models/limits", refusal(502)),
        ("POST /v1/fine-tunes/estimate-price", LOST),
        (LIST, NEVER),
        ("GET /v1/fine-tunes/{id}", refusal(500)),
        ("GET /v1/fine-tunes/{id}/events", RESET),
        ("GET /v1/fine-tunes/{id}/metrics", refusal(500)),
        ("GET /v1/fine-tunes/{id}/checkpoints", LOST),
    ],
)
def test_together_one_fault_anywhere_changes_nothing(
    together: TogetherServer, user: TogetherEnvironment, route: str, fault: Fault
) -> None:
    """Rows 3, 5, 7: the same result as without it."""
    together.script(route, fault)
    user.train()
    assert together.scripts[route] == []
    assert user.counts() == ONE_OF_EACH


def test_together_refused_file_is_dataset_error(together: TogetherServer, user: TogetherEnvironment) -> None:
    """Row 12: with the line that the host names."""
    together.file_status, together.file_error = "INVALID_FORMAT", "Line 7: no role"
    with pytest.raises(DatasetError, match="Line 7: no role"):
        user.train()
    assert together.calls[CREATE] == 0


def test_together_failed_job_says_why(together: TogetherServer, user: TogetherEnvironment) -> None:
    """Row 13."""
    together.statuses = ("running", "user_error")
    with pytest.raises(JobFailedError, match="user_error"):
        user.train()


@pytest.mark.parametrize("status", ["running", "on_the_moon", "compressing"])
def test_together_stuck_job_ends_at_timeout(together: TogetherServer, user: TogetherEnvironment, status: str) -> None:
    """Row 14: an unknown status is not an end."""
    together.statuses = (status,)
    with pytest.raises(StillRunningError):
        user.train(timeout=0.3)


def test_together_price_above_the_plan_is_not_paid(together: TogetherServer, user: TogetherEnvironment) -> None:
    """The host's estimate comes before the job exists; a limit that covers it lets the same run continue."""
    together.price = 4.0
    with pytest.raises(CostLimitError, match=r"estimates 4 USD for this job, and the plan said at most 0\.02"):
        user.train()
    assert together.calls[CREATE] == 0
    pipeline = user.pipeline()
    pipeline.max_cost = 3.0
    with pytest.raises(CostLimitError, match="the limit is 3"):
        pipeline.resume(timeout=60)
    pipeline.max_cost = 4.0
    assert pipeline.resume(timeout=60).state == RunState.REGISTERED
    assert user.counts() == ONE_OF_EACH


def test_together_account_limit_is_a_quota_error(together: TogetherServer, user: TogetherEnvironment) -> None:
    """Before the job exists."""
    together.is_allowed = False
    with pytest.raises(QuotaError, match="limit is 25 USD"):
        user.train()
    assert together.calls[CREATE] == 0
