"""Create: one job, whatever the network does."""

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
from ftpipe.records import Job, JobRequest, UploadedFile
from ftpipe.registry import Registry, open_registry
from ftpipe.registry.journal import OperationState
from ftpipe.stages.create import CreateJob
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI, Fault, lost_answer, never_sent, status_error
from tests.fakes.records import MODEL, provider_over

FILE = UploadedFile(id="file-1", endpoint="e", sha256="0" * 64, bytes=1, filename="a.jsonl", created_at=0)
REQUEST = JobRequest(model=MODEL, training_file=FILE, suffix="support")


class Harness:
    """A mocked client, a clock and a journal, and the call under test."""

    def __init__(self, folder: Path) -> None:
        self.client = FakeOpenAI()
        self.clock = Clock()
        self.registry: Registry = open_registry(folder / "registry.db")
        self.registry.journal._clock = self.clock
        self.notices: list[str] = []
        self.profile: dict[str, object] = {}

    def create(self, key: str = "key-1") -> Job:
        """Call ``create`` as the pipeline does."""
        return CreateJob(
            REQUEST,
            key=key,
            run_id="run-1",
            provider=provider_over(self.client, self.clock, **self.profile),
            journal=self.registry.journal,
            sleep=self.clock.sleep,
            clock=self.clock,
            on_status=self.notices.append,
        ).run()

    def state(self, key: str = "key-1") -> str:
        """What the journal says."""
        operation = self.registry.journal.find(key)
        return operation.state.value if operation else "none"


@pytest.fixture
def bench(tmp_path: Path) -> Harness:
    """A fresh bench."""
    return Harness(tmp_path)


def test_a_job_is_created_with_the_key_in_its_metadata(bench: Harness) -> None:
    """So that it can be found again."""
    job = bench.create()
    assert bench.client.bodies[0]["metadata"]["ftpipe_key"] == "key-1"
    assert (job.id, bench.state()) == ("ftjob-1", "confirmed")


def test_asking_again_with_the_same_key_makes_no_second_job(bench: Harness) -> None:
    """The journal knows it."""
    assert bench.create().id == bench.create().id
    assert bench.client.calls["jobs.create"] == 1


@pytest.mark.parametrize(
    "fault", [lost_answer(), status_error(500), status_error(503), status_error(409), status_error(408)]
)
def test_a_job_whose_answer_was_lost_is_found_and_not_made_again(bench: Harness, fault: Exception) -> None:
    """The call was executed: one POST, one job."""
    bench.client.fail("jobs.create", Fault(error=fault, executed=True))
    assert bench.create().id == "ftjob-1"
    assert (bench.client.calls["jobs.create"], len(bench.client.stored_jobs)) == (1, 1)


def test_a_job_that_was_not_made_is_made_after_the_list_has_had_time_to_show_it(bench: Harness) -> None:
    """The answer was lost and nothing was executed: the second POST comes ninety seconds later at the earliest."""
    bench.client.fail("jobs.create", Fault(error=status_error(500)))
    bench.create()
    assert len(bench.client.stored_jobs) == 1
    assert sum(bench.clock.slept) >= 90


def test_a_job_that_the_list_shows_late_is_not_made_twice(bench: Harness) -> None:
    """Lists may lag behind."""
    bench.client.lists_after = 2
    bench.client.fail("jobs.create", Fault(error=lost_answer(), executed=True))
    bench.create()
    assert len(bench.client.stored_jobs) == 1


def test_a_host_that_keeps_no_metadata_is_searched_by_file_model_and_time(bench: Harness) -> None:
    """As Nebius is."""
    bench.profile = {"metadata_stored": False, "metadata_filter": False}
    bench.client.keeps_metadata = False
    bench.client.fail("jobs.create", Fault(error=lost_answer(), executed=True))
    assert bench.create().id == "ftjob-1"
    assert len(bench.client.stored_jobs) == 1


def test_an_unreadable_list_ends_with_exit_code_7_and_no_second_post(bench: Harness) -> None:
    """Whether the job exists cannot be known, so nothing is sent again."""
    bench.client.fail("jobs.create", Fault(error=lost_answer(), executed=True))
    bench.client.fail("jobs.list", None, *[Fault(error=status_error(500))] * 30)
    with pytest.raises(OutcomeUnknownError) as caught:
        bench.create()
    assert (caught.value.exit_code, bench.state(), bench.client.calls["jobs.create"]) == (7, "unknown", 1)
    bench.client._faults.clear()
    assert bench.create().id == "ftjob-1"
    assert bench.client.calls["jobs.create"] == 1


def test_a_crash_between_intent_and_answer_is_settled_at_the_next_start(bench: Harness) -> None:
    """The journal says intended: the endpoint is searched before anything is sent."""
    bench.client.fail("jobs.create", Fault(error=KeyboardInterrupt(), executed=True))  # type: ignore[arg-type]  # a kill
    with pytest.raises(KeyboardInterrupt):
        bench.create()
    assert bench.state() == "intended"
    assert bench.create().id == "ftjob-1"
    assert bench.client.calls["jobs.create"] == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (status_error(401), AuthenticationError),
        (status_error(403, code="training_not_available"), TrainingNotAvailableError),
        (status_error(429, code="daily_rate_limit_exceeded"), ProviderError),
        (status_error(400), ProviderError),
    ],
)
def test_a_refusal_is_written_down_and_not_repeated(
    bench: Harness, fault: Exception, expected: type[FtpipeError]
) -> None:
    """One POST; the journal says rejected; the next start may try again."""
    bench.client.fail("jobs.create", Fault(error=fault))
    with pytest.raises(expected):
        bench.create()
    assert (bench.state(), bench.client.calls["jobs.create"]) == ("rejected", 1)
    assert bench.create().id == "ftjob-1"


def test_an_endpoint_that_was_never_reached_is_tried_again_a_few_times(bench: Harness) -> None:
    """Nothing was sent, so trying again is safe."""
    bench.client.fail("jobs.create", *[Fault(error=never_sent())] * 2)
    assert bench.create().id == "ftjob-1"
    bench.client.fail("jobs.create", *[Fault(error=never_sent())] * 3)
    with pytest.raises(ConnectionFailedError):
        bench.create("key-2")
    assert bench.state("key-2") == "rejected"


def test_of_two_jobs_with_one_key_the_oldest_is_used_and_the_other_is_named(bench: Harness) -> None:
    """Each of them is paid, so a person should know."""
    bench.client.seed_job(metadata={"ftpipe_key": "key-1"})
    bench.client.seed_job(metadata={"ftpipe_key": "key-1"})
    assert bench.create().id == "ftjob-1"
    assert any("ftjob-2" in notice for notice in bench.notices)
    assert bench.client.calls["jobs.create"] == 0


def test_a_lost_registry_finds_the_job_that_it_had_made(bench: Harness, tmp_path: Path) -> None:
    """The key is the same for the same data and parameters, so the endpoint remembers for us."""
    bench.create()
    bench.registry = open_registry(tmp_path / "other.db")
    assert bench.create().id == "ftjob-1"
    assert bench.client.calls["jobs.create"] == 1


def test_a_failed_job_of_the_same_key_is_not_adopted_by_a_new_request(bench: Harness) -> None:
    """A person who asks again after a failure wants a new job."""
    bench.client.seed_job(metadata={"ftpipe_key": "key-1"}, status="failed")
    assert bench.create().id == "ftjob-2"


def test_the_intent_is_on_the_disk_before_the_call(bench: Harness, tmp_path: Path) -> None:
    """Another process sees it while the call is under way."""
    seen: list[OperationState] = []
    other = open_registry(tmp_path / "registry.db")

    class Peeking(FakeOpenAI):
        def serve(self, name: str, act: Callable[[], Any]) -> Any:
            if name == "jobs.create":
                operation = other.journal.find("key-1")
                seen.append(operation.state) if operation else None
            return super().serve(name, act)

    bench.client = Peeking()
    bench.create()
    assert seen == [OperationState.INTENDED]
