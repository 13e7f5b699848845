"""The poll stage: it waits for the end of the job, and a network error is not an error of the job."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai.pagination import SyncCursorPage

from ftpipe.errors import AuthenticationError, StillRunningError
from tests.fakes.harness import Harness
from tests.fakes.openai_client import Fault, lost_response, status_error


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """A fresh harness."""
    return Harness(tmp_path)


def test_poll_until_success_reports_each_event_once(harness: Harness) -> None:
    """Three looks, three events in order."""
    job = harness.poll("queued", "running", "succeeded")
    assert job.fine_tuned_model == "ft:gpt-4.1-mini-2025-04-14:org-test::1"
    assert [event.data["step"] for event in harness.events] == [1, 2, 3]


def test_poll_continues_at_unknown_status(harness: Harness) -> None:
    """Only three words are."""
    assert harness.poll("paused", "pondering", "failed").status == "failed"


def test_poll_reports_network_error_once(harness: Harness) -> None:
    """The job does not fail because we cannot see it."""
    harness.client.fail_next(
        "jobs.retrieve", *[Fault(error=lost_response())] * 20, *[Fault(error=status_error(502))] * 20
    )
    assert harness.poll("running", "succeeded").status == "succeeded"
    assert len([message for message in harness.messages if "continues there" in message]) == 1
    assert any("answers again" in message for message in harness.messages)


def test_poll_pauses_grow_up_to_profile_limit(harness: Harness) -> None:
    """Five seconds at first, a minute and the jitter at most."""
    harness.poll(*["running"] * 30, "succeeded")
    assert harness.clock.slept[0] < 10
    assert max(harness.clock.slept) <= 60
    assert harness.clock.slept[-1] > 30


def test_poll_timeout_leaves_job_running(harness: Harness) -> None:
    """Exit code 8, and the way back."""
    with pytest.raises(StillRunningError) as caught:
        harness.poll("running", timeout=100)
    assert caught.value.exit_code == 8
    assert "ftpipe status ftjob-1" in caught.value.hint


def test_poll_stops_at_refused_key(harness: Harness) -> None:
    """Exit code 4; the job is not called failed."""
    harness.client.fail_next("jobs.retrieve", Fault(error=status_error(401)))
    with pytest.raises(AuthenticationError):
        harness.poll("running")


def test_poll_warns_on_stalled_job_without_cancelling(harness: Harness) -> None:
    """Queues of hours happen."""
    harness.client.fail_next("jobs.list_events", *[Fault(response=SyncCursorPage(data=[], has_more=False))] * 90)
    harness.poll(*["queued"] * 100, "succeeded")
    assert any("no news" in message for message in harness.messages)
    assert harness.client.calls["jobs.cancel"] == 0


@pytest.mark.parametrize(("target", "count"), [("local", 1), ("openai", 0)])
def test_poll_says_once_which_job_a_queued_one_waits_for(tmp_path: Path, target: str, count: int) -> None:
    """On the user's own machine; the queue of a hosted provider is not known."""
    harness = Harness(tmp_path, target=target)
    harness.client.seed_job(status="running")
    harness.client.job_reads["ftjob-1"] = 2
    harness.poll(*["queued"] * 5, "running", "succeeded")
    assert harness.messages.count("ftjob-2 is queued and waits for ftjob-1 (step 2 of 3)") == count


def test_poll_of_job_that_is_queued_for_a_moment_says_nothing(tmp_path: Path) -> None:
    harness = Harness(tmp_path, target="local")
    harness.client.seed_job(status="running")
    harness.poll("queued", "running", "succeeded")
    assert harness.messages == []
