"""Poll: to the end of the job, and no further trouble than the job's own."""

from __future__ import annotations

import pytest

from ftpipe.errors import AuthenticationError, StillRunningError
from ftpipe.records import Event, Job
from ftpipe.stages.poll import PollJob
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI, Fault, lost_answer, status_error
from tests.fakes.records import provider_over


class Harness:
    """A job at a mocked client, and the call under test."""

    def __init__(self, *statuses: str) -> None:
        self.client = FakeOpenAI(statuses=list(statuses))
        self.clock = Clock()
        self.provider = provider_over(self.client, self.clock)
        self.client.seed_job()
        self.events: list[Event] = []
        self.notices: list[str] = []

    def poll(self, timeout: float | None = None) -> Job:
        """Call ``poll`` as the pipeline does."""
        return PollJob(
            Job(
                id="ftjob-1",
                endpoint="e",
                provider="openai",
                status="queued",
                model="m",
                training_file="f",
                created_at=0,
            ),
            self.provider,
            timeout=timeout,
            on_events=self.events.extend,
            on_status=self.notices.append,
            sleep=self.clock.sleep,
            clock=self.clock,
        ).run()


def test_a_job_is_looked_at_until_it_has_succeeded_and_each_event_is_heard_once() -> None:
    """Three looks, three events in order."""
    bench = Harness("queued", "running", "succeeded")
    job = bench.poll()
    assert job.fine_tuned_model == "ft:gpt-4.1-mini-2025-04-14:org-test::1"
    assert [event.data["step"] for event in bench.events] == [1, 2, 3]


def test_an_unknown_status_is_not_the_end() -> None:
    """Only three words are."""
    bench = Harness("paused", "pondering", "failed")
    assert bench.poll().status == "failed"


def test_network_trouble_is_said_once_and_the_job_goes_on() -> None:
    """The job does not fail because we cannot see it."""
    bench = Harness("running", "succeeded")
    bench.client.fail("jobs.retrieve", *[Fault(error=lost_answer())] * 20, *[Fault(error=status_error(502))] * 20)
    assert bench.poll().status == "succeeded"
    assert len([notice for notice in bench.notices if "continues there" in notice]) == 1
    assert any("answers again" in notice for notice in bench.notices)


def test_the_waits_grow_and_stay_under_the_profiles_limit() -> None:
    """Five seconds at first, a minute and the jitter at most."""
    bench = Harness(*["running"] * 30, "succeeded")
    bench.poll()
    assert bench.clock.slept[0] < 10
    assert max(bench.clock.slept) <= 60
    assert bench.clock.slept[-1] > 30


def test_the_time_limit_leaves_the_job_running() -> None:
    """Exit code 8, and the way back."""
    with pytest.raises(StillRunningError) as caught:
        Harness("running").poll(timeout=100)
    assert caught.value.exit_code == 8
    assert "ftpipe status ftjob-1" in caught.value.hint


def test_a_refused_key_stops_the_polling_but_not_the_job() -> None:
    """Exit code 4; the job is not called failed."""
    bench = Harness("running")
    bench.client.fail("jobs.retrieve", Fault(error=status_error(401)))
    with pytest.raises(AuthenticationError):
        bench.poll()


def test_long_silence_is_said_and_nothing_is_cancelled() -> None:
    """Queues of hours happen."""
    bench = Harness(*["queued"] * 100, "succeeded")
    bench.client.fail("jobs.list_events", *[Fault(answer=[])] * 90)
    bench.poll()
    assert any("no news" in notice for notice in bench.notices)
    assert bench.client.calls["jobs.cancel"] == 0
