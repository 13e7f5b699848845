"""The create stage: one job, whatever the network does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import (
    AuthenticationError,
    ConnectionFailedError,
    FtpipeError,
    OutcomeUnknownError,
    ProviderError,
    TrainingNotAvailableError,
)
from ftpipe.registry.journal import OperationState
from tests.fakes.harness import Harness
from tests.fakes.openai_client import FakeOpenAI, Fault, lost_response, never_sent, status_error


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """A fresh harness."""
    return Harness(tmp_path)


def test_create_stores_key_in_metadata(harness: Harness) -> None:
    """So that it can be found again."""
    job = harness.create()
    assert harness.client.bodies[0]["metadata"]["ftpipe_key"] == "key-1"
    assert (job.id, harness.operation_state()) == ("ftjob-1", "confirmed")


def test_create_same_key_makes_no_second_job(harness: Harness) -> None:
    """The journal knows it."""
    assert harness.create().id == harness.create().id
    assert harness.client.calls["jobs.create"] == 1


@pytest.mark.parametrize(
    "fault", [lost_response(), status_error(500), status_error(503), status_error(409), status_error(408)]
)
def test_create_finds_job_after_lost_response(harness: Harness, fault: Exception) -> None:
    """The call was executed: one POST, one job."""
    harness.client.fail_next("jobs.create", Fault(error=fault, executed=True))
    assert harness.create().id == "ftjob-1"
    assert (harness.client.calls["jobs.create"], len(harness.client.stored_jobs)) == (1, 1)


def test_create_waits_for_list_lag_before_second_post(harness: Harness) -> None:
    """The answer was lost and nothing was executed: the second POST comes ninety seconds later at the earliest."""
    harness.client.fail_next("jobs.create", Fault(error=status_error(500)))
    harness.create()
    assert len(harness.client.stored_jobs) == 1
    assert sum(harness.clock.slept) >= 90


def test_create_finds_job_that_is_listed_late(harness: Harness) -> None:
    """Lists may lag behind."""
    harness.client.lists_after = 2
    harness.client.fail_next("jobs.create", Fault(error=lost_response(), executed=True))
    harness.create()
    assert len(harness.client.stored_jobs) == 1


def test_create_without_metadata_matches_file_model_and_time(harness: Harness) -> None:
    """As Nebius is."""
    harness.profile = {"metadata_stored": False, "metadata_filter": False}
    harness.client.keeps_metadata = False
    harness.client.fail_next("jobs.create", Fault(error=lost_response(), executed=True))
    assert harness.create().id == "ftjob-1"
    assert len(harness.client.stored_jobs) == 1


def test_create_unreadable_list_exits_7_without_second_post(harness: Harness) -> None:
    """Whether the job exists cannot be known, so nothing is sent again."""
    harness.client.fail_next("jobs.create", Fault(error=lost_response(), executed=True))
    harness.client.fail_next("jobs.list", None, *[Fault(error=status_error(500))] * 30)
    with pytest.raises(OutcomeUnknownError) as caught:
        harness.create()
    assert (caught.value.exit_code, harness.operation_state(), harness.client.calls["jobs.create"]) == (7, "unknown", 1)
    harness.client.clear_faults()
    assert harness.create().id == "ftjob-1"
    assert harness.client.calls["jobs.create"] == 1


def test_create_reconciles_after_crash(harness: Harness) -> None:
    """The journal says intended: the endpoint is searched before anything is sent."""
    harness.client.fail_next("jobs.create", Fault(error=KeyboardInterrupt(), executed=True))  # type: ignore[arg-type]  # a kill
    with pytest.raises(KeyboardInterrupt):
        harness.create()
    assert harness.operation_state() == "intended"
    assert harness.create().id == "ftjob-1"
    assert harness.client.calls["jobs.create"] == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (status_error(401), AuthenticationError),
        (status_error(403, code="training_not_available"), TrainingNotAvailableError),
        (status_error(429, code="daily_rate_limit_exceeded"), ProviderError),
        (status_error(400), ProviderError),
    ],
)
def test_create_records_rejection_and_does_not_repeat(
    harness: Harness, fault: Exception, expected: type[FtpipeError]
) -> None:
    """One POST; the journal says rejected; the next start may try again."""
    harness.client.fail_next("jobs.create", Fault(error=fault))
    with pytest.raises(expected):
        harness.create()
    assert (harness.operation_state(), harness.client.calls["jobs.create"]) == ("rejected", 1)
    assert harness.create().id == "ftjob-1"


def test_create_retries_if_nothing_was_sent(harness: Harness) -> None:
    """Nothing was sent, so trying again is safe."""
    harness.client.fail_next("jobs.create", *[Fault(error=never_sent())] * 2)
    assert harness.create().id == "ftjob-1"
    harness.client.fail_next("jobs.create", *[Fault(error=never_sent())] * 3)
    with pytest.raises(ConnectionFailedError):
        harness.create("key-2")
    assert harness.operation_state("key-2") == "rejected"


def test_create_uses_oldest_of_two_jobs_with_one_key(harness: Harness) -> None:
    """Each of them is paid, so a person should know."""
    harness.client.seed_job(metadata={"ftpipe_key": "key-1"})
    harness.client.seed_job(metadata={"ftpipe_key": "key-1"})
    assert harness.create().id == "ftjob-1"
    assert any("ftjob-2" in message for message in harness.messages)
    assert harness.client.calls["jobs.create"] == 0


def test_create_finds_job_after_registry_was_lost(harness: Harness) -> None:
    """The key is the same for the same data and parameters, so the endpoint remembers for us."""
    harness.create()
    harness.registry = harness.open_registry("other.db")
    assert harness.create().id == "ftjob-1"
    assert harness.client.calls["jobs.create"] == 1


def test_create_ignores_failed_job_of_same_key(harness: Harness) -> None:
    """A person who asks again after a failure wants a new job."""
    harness.client.seed_job(metadata={"ftpipe_key": "key-1"}, status="failed")
    assert harness.create().id == "ftjob-2"


def test_create_commits_intent_before_call(harness: Harness) -> None:
    """Another process sees it while the call is under way."""
    states: list[OperationState] = []
    other = harness.open_registry()

    class JournalReadingClient(FakeOpenAI):
        def serve(self, name: str, execute: Callable[[], Any]) -> Any:
            if name == "jobs.create":
                operation = other.journal.find("key-1")
                states.append(operation.state) if operation else None
            return super().serve(name, execute)

    harness.client = JournalReadingClient()
    harness.create()
    assert states == [OperationState.INTENDED]
