"""A Hypothesis state machine over journal and create stage: crashes, lost responses, duplicates, concurrency.

The same rules are run with a journal that records after the call; the machine must find its double payment.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ftpipe.errors import FtpipeError, LocalStateError
from ftpipe.providers.provider import Provider
from ftpipe.records import Job, JobRequest, UploadedFile
from ftpipe.registry.database import open_engine
from ftpipe.registry.journal import Journal, Operation, OperationState
from ftpipe.stages.create_job import CreateJob
from tests.examples import examples
from tests.fakes.clock import Clock
from tests.fakes.harness import SimulatedCrash
from tests.fakes.openai_client import FakeOpenAI, Fault, lost_response, never_sent, status_error
from tests.fakes.records import provider_over
from tests.faults.unjournaled_client import CallThenRecordJournal


class CrashingJournal(Journal):
    """A journal whose process crashes when its countdown ends, before or after a write is on the disk."""

    def arm(self, countdown: int) -> None:
        """Crash after so many steps; never for a negative number."""
        self._countdown = countdown

    def _step(self) -> None:
        if self._countdown == 0:
            raise SimulatedCrash
        self._countdown -= 1

    def record_intent(self, **fields: Any) -> Operation:
        """Crash before or after the intent is on the disk."""
        self._step()
        operation = super().record_intent(**fields)
        self._step()
        return operation

    def confirm(self, key: str, remote_id: str) -> None:
        """Crash before or after the confirmation is on the disk."""
        self._step()
        super().confirm(key, remote_id)
        self._step()

    def reject(self, key: str, why: str) -> None:
        """Crash before or after the rejection is on the disk."""
        self._step()
        super().reject(key, why)
        self._step()

    def mark_unknown(self, key: str, why: str) -> None:
        """Crash before or after the doubt is on the disk."""
        self._step()
        super().mark_unknown(key, why)
        self._step()


class CrashingCallThenRecordJournal(CallThenRecordJournal):
    """The journal that records after the call, in a process that can crash between the two."""

    def arm(self, countdown: int) -> None:
        """Crash before or after the record is written: 0 or 1."""
        self._countdown = countdown

    def confirm(self, key: str, remote_id: str) -> None:
        """Crash before or after writing."""
        if self._countdown == 0:
            raise SimulatedCrash
        super().confirm(key, remote_id)
        if self._countdown == 1:
            raise SimulatedCrash


FAULTS: dict[str, Callable[[], Fault]] = {
    "lost, executed": lambda: Fault(error=lost_response(), executed=True),
    "lost, not executed": lambda: Fault(error=lost_response()),
    "500, executed": lambda: Fault(error=status_error(500), executed=True),
    "409, executed": lambda: Fault(error=status_error(409), executed=True),
    "503, not executed": lambda: Fault(error=status_error(503)),
    "broken body, executed": lambda: Fault(response="<html>", executed=True),
    "null, executed": lambda: Fault(response=None, executed=True),
    "never sent": lambda: Fault(error=never_sent()),
    "quota": lambda: Fault(error=status_error(429, code="insufficient_quota")),
    "key refused": lambda: Fault(error=status_error(401)),
}


def request_of(number: int) -> JobRequest:
    """The request for the job of that number."""
    name = f"file-{number}"
    file = UploadedFile(id=name, endpoint="e", sha256="0" * 64, bytes=9, filename="ftpipe-0.jsonl", created_at=1)
    return JobRequest(model="gpt-4.1-mini-2025-04-14", training_file=file)


class PaymentStateMachine(RuleBasedStateMachine):
    """One user who requests one job after the other, whatever happens in between."""

    journal_kind: type[CrashingJournal | CrashingCallThenRecordJournal] = CrashingJournal

    @initialize(keeps=st.booleans(), filters=st.booleans(), lag=st.integers(0, 1))
    def start(self, keeps: bool, filters: bool, lag: int) -> None:
        """An endpoint with its quirks, and an empty journal."""
        memory = Path("/dev/shm")
        self.folder = Path(
            tempfile.mkdtemp(prefix=f"ftpipe-machine-{os.getpid()}-", dir=memory if memory.is_dir() else None)
        )
        self.clock = Clock()
        self.server = FakeOpenAI(keeps_metadata=keeps, lists_after=lag)
        self.profile = {"metadata_filter": filters and keeps and self.journal_kind is CrashingJournal}
        self.ids: set[str] = set()
        self.number, self.paid_before = 1, 0

    def teardown(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(getattr(self, "folder", "/nowhere"), ignore_errors=True)

    @property
    def key(self) -> str:
        """The key of the current request."""
        return f"{self.number:064}"

    def next_request(self) -> None:
        """Go on to the next request if the current one has its job, so that a fault has something to hit."""
        if self.ids:
            self.ids.clear()
            self.number += 1
            self.paid_before = len(self.server.stored_jobs)

    def process(self, countdown: int = -1) -> tuple[CrashingJournal | CrashingCallThenRecordJournal, Provider]:
        """What a new process sees: the journal as it is on the disk, and the endpoint."""
        engine = open_engine(str(self.folder / "journal.db"))
        journal = self.journal_kind(engine, self.clock)
        journal.arm(countdown)
        return journal, provider_over(self.server, self.clock, **self.profile)

    def attempt(self, countdown: int = -1) -> Job | None:
        """One call of ``ftpipe train`` or ``resume``, which may die or fail."""
        journal, provider = self.process(countdown)
        try:
            job = CreateJob(
                request_of(self.number),
                key=self.key,
                run_id="run-1",
                provider=provider,
                journal=journal,
                sleep=self.clock.sleep,
                clock=self.clock,
            ).run()
        except (SimulatedCrash, FtpipeError):
            return None
        self.ids.add(job.id)
        return job

    @rule()
    def train(self) -> None:
        """A run without faults ends with a job, and always with the same."""
        assert self.attempt() is not None

    @rule(fault=st.sampled_from(sorted(FAULTS)))
    def train_with_a_fault(self, fault: str) -> None:
        """The response to the next paid call is lost, broken, or a refusal."""
        self.next_request()
        self.server.fail_next("jobs.create", FAULTS[fault]())
        self.attempt()
        self.server.clear_faults()

    @rule(countdown=st.integers(0, 4), fault=st.sampled_from(["none", *sorted(FAULTS)]))
    def crash(self, countdown: int, fault: str) -> None:
        """The process is killed before or after one of its writes."""
        self.next_request()
        if fault != "none":
            self.server.fail_next("jobs.create", FAULTS[fault]())
        self.attempt(countdown)
        self.server.clear_faults()

    @rule()
    def list_is_down(self) -> None:
        """The endpoint's list cannot be read, so nothing may be sent that was in doubt."""
        self.server.fail_next("jobs.list", *[Fault(error=status_error(503))] * 20)
        self.attempt()
        self.server.clear_faults()

    @rule()
    def confirmation_arrives_twice(self) -> None:
        """A confirmation that comes again, or late and with another id, changes nothing."""
        journal, _ = self.process()
        operation = journal.find(self.key)
        if operation is None or operation.state != OperationState.CONFIRMED:
            return
        Journal.confirm(journal, self.key, "ftjob-late")
        Journal.reject(journal, self.key, "late")
        again = journal.find(self.key)
        assert again is not None
        assert (again.state, again.remote_id) == (OperationState.CONFIRMED, operation.remote_id)

    @rule(seconds=st.sampled_from([-7200.0, 60.0, 7200.0]))
    def clock_jumps(self, seconds: float) -> None:
        """Between two runs the clock is set; at hosts that drop the metadata only within the tolerance."""
        self.clock.now += seconds if self.server.keeps_metadata else min(max(seconds, -300.0), 300.0)

    @rule()
    def another_process_tries_the_same_key_at_the_same_time(self) -> None:
        """Two intents of one key race; the pipeline's lock lets them come one after the other."""
        lock, ends = threading.Lock(), list[Job | None]()

        def one() -> None:
            with lock:
                ends.append(self.attempt())

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ends) == 2

    @invariant()
    def at_most_one_job_is_paid(self) -> None:
        """What the journal guarantees."""
        if hasattr(self, "server"):
            assert len(self.server.stored_jobs) - self.paid_before <= 1
            assert len(self.ids) <= 1


class UnjournaledStateMachine(PaymentStateMachine):
    """The same with the journal that records after the call."""

    journal_kind = CrashingCallThenRecordJournal


def run_machine(kind: type[PaymentStateMachine], *, examples: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    """Run a machine with a fixed seed's worth of examples."""
    quick = settings(
        max_examples=examples,
        stateful_step_count=10,
        derandomize=True,
        phases=phases,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(kind, settings=quick)


@pytest.mark.slow
def test_journal_any_order_of_faults_pays_once() -> None:
    """Row 1, 2, 7, 22: crash, lost answer, duplicate delivery, concurrent runs, clock jumps, in any order."""
    run_machine(PaymentStateMachine, examples=int(os.environ.get("FTPIPE_EXAMPLES", str(examples(8, 25)))))


def test_state_machine_finds_double_payment_without_journal() -> None:
    """The test of the test: with call-then-record the same rules lead to two paid jobs."""
    with pytest.raises(AssertionError, match="stored_jobs"):
        run_machine(UnjournaledStateMachine, examples=400, phases=(Phase.generate,))


def test_journal_confirmed_call_cannot_be_repeated(tmp_path: Path) -> None:
    """The journal itself refuses, whoever asks."""
    journal = Journal(open_engine(str(tmp_path / "journal.db")))
    fields = {"run_id": "r", "kind": "create_job", "endpoint": "e", "request_digest": "0"}
    journal.record_intent(key="k", **fields)  # type: ignore[arg-type]  # text throughout
    journal.confirm("k", "ftjob-1")
    with pytest.raises(LocalStateError, match="confirmed"):
        journal.record_intent(key="k", **fields)  # type: ignore[arg-type]  # as above


def test_journal_key_cannot_be_used_for_another_request(tmp_path: Path) -> None:
    """The same key with other parameters is refused before anything is sent."""
    journal = Journal(open_engine(str(tmp_path / "journal.db")))
    journal.record_intent(key="k", run_id="r", kind="create_job", endpoint="e", request_digest="0")
    with pytest.raises(LocalStateError):
        journal.record_intent(key="k", run_id="r", kind="create_job", endpoint="e", request_digest="1")
