"""Faults while polling: a network error is not an error of the job, and the end of the job is reported as it is."""

from __future__ import annotations

import itertools
import json
import threading
import time

import pytest

from ftpipe.errors import FtpipeError, JobFailedError, NotFoundError, StillRunningError
from ftpipe.records import RunState
from tests.fakes.scripted_server import LOST, Fault, busy, refusal
from tests.faults.chaos_proxy import ChaosProxy, Toxics
from tests.faults.environment import ONE_OF_EACH, FaultEnvironment

GET_JOB = "GET /fine_tuning/jobs/{id}"
EVENTS = "GET /fine_tuning/jobs/{id}/events"

NETWORK_ERRORS = {
    "dropped": LOST,
    "reset": Fault(then="reset"),
    "cut": Fault(then="cut"),
    "stalled": Fault(then="stall"),
    "503": refusal(503),
    "429": busy(Retry_After="0.01"),
    "html": Fault(body=b"<html>"),
    "null": Fault(body=b"null"),
    "no status": Fault(body=b'{"id": "ftjob-0001"}'),
}


@pytest.mark.parametrize("route", [GET_JOB, EVENTS])
@pytest.mark.parametrize("name", NETWORK_ERRORS)
def test_poll_network_error_does_not_fail_job(environment: FaultEnvironment, route: str, name: str) -> None:
    """Rows 5, 8, 9: the look is taken again, and the job is never called failed."""
    environment.endpoint.script(route, NETWORK_ERRORS[name], None, NETWORK_ERRORS[name])
    assert environment.train(request_timeout_seconds=0.5).state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_poll_survives_flapping_network(environment: FaultEnvironment) -> None:
    """Row 5: the line goes down and comes back all the time; notices say so, and the run ends well."""
    environment.endpoint.statuses = ("queued", *["running"] * 12, "succeeded")
    stop = threading.Event()
    with ChaosProxy(environment.endpoint.port) as proxy:
        environment.base_url = proxy.base_url

        def flap() -> None:
            for is_down in itertools.cycle((True, False)):
                if stop.wait(0.15):
                    return
                proxy.toxics = Toxics(down=is_down)
                proxy.cut()

        flapping = threading.Thread(target=flap, daemon=True)
        environment.endpoint.after = lambda route: flapping.start() if route == "POST /fine_tuning/jobs" else None
        try:
            assert environment.train().state == RunState.REGISTERED
        finally:
            stop.set()
    assert environment.counts() == ONE_OF_EACH


def test_poll_caps_retry_after(environment: FaultEnvironment) -> None:
    """Row 6: an endpoint that says 'come back in eleven days' is looked at again long before."""
    environment.speed = 0.0
    environment.endpoint.script(GET_JOB, *[busy(Retry_After="999999")] * 2)
    assert environment.train(timeout=None).state == RunState.REGISTERED
    assert max(environment.slept) <= 600


FAILURES = [
    ("invalid_n_examples", "Training file has 8 example(s), but must have at least 10 examples", "examples"),
    ("invalid_training_file", "Example 100, message 2 is missing a role", "prepare"),
    ("invalid_training_file", "The job failed due to a moderation block: hate, violence", "prepare"),
    ("invalid_file_format", "Invalid file format. Example 3 has an extra key", "prepare"),
    ("invalid_validation_file", "line 4 of the validation file", "validation"),
    ("unsafe_file", "The training file is unsafe (reasoning extraction)", "safety"),
    ("exceeded_quota", "Fine-tuning quota exceeded", "credit"),
    ("server_error", "internal error", "again"),
    ("a_word_nobody_knows", "whatever", "events"),
    ("", "", "events"),
]


@pytest.mark.parametrize(("code", "message", "hint"), FAILURES)
def test_poll_failed_job_reports_reason_and_hint(
    environment: FaultEnvironment, code: str, message: str, hint: str
) -> None:
    """Row 13: exit 1, the endpoint's own words, a next step by its code; a new train makes a new job."""
    environment.endpoint.statuses = ("validating_files", "failed")
    environment.endpoint.job_error = {"code": code or None, "message": message or None, "param": "training_file"}
    with pytest.raises(JobFailedError) as caught:
        environment.train()
    assert caught.value.exit_code == 1
    assert message in caught.value.message
    assert hint in caught.value.hint
    run = environment.registry.runs.latest()
    assert run is not None
    assert (run.state, run.job.status if run.job else "") == (RunState.FAILED, "failed")
    environment.endpoint.statuses = ("succeeded",)
    assert environment.train().state == RunState.REGISTERED
    assert len(environment.endpoint.jobs) == 2


def test_poll_cancelled_job_ends_run(environment: FaultEnvironment) -> None:
    """Row 13: cancelled elsewhere: exit 1; resume says it again and pays nothing."""
    environment.endpoint.statuses = ("running", "cancelled")
    for attempt in (environment.train, environment.resume):
        with pytest.raises(JobFailedError, match="cancelled"):
            attempt()
    assert len(environment.endpoint.jobs) == 1


def test_poll_job_blocked_by_safety_tests_reports_reason(environment: FaultEnvironment) -> None:
    """Row 13: the reason is in the error; the events are kept for the whole story."""
    environment.endpoint.statuses = ("running", "running", "failed")
    environment.endpoint.job_error = {"code": "unsafe_file", "message": "blocked: hate, violence", "param": None}
    with pytest.raises(JobFailedError, match="blocked: hate"):
        environment.train()
    assert environment.registry.jobs.events("ftjob-0001")


@pytest.mark.parametrize("status", ["queued", "validating_files", "pausing", "running"])
def test_poll_stuck_job_ends_at_timeout(environment: FaultEnvironment, status: str) -> None:
    """Row 14: exit 8 at ``--timeout``, nothing is cancelled, and resume goes on."""
    environment.endpoint.statuses = (status,)
    started_at = time.monotonic()
    with pytest.raises(StillRunningError) as caught:
        environment.train(timeout=0.3)
    assert caught.value.exit_code == 8
    assert time.monotonic() - started_at < 3
    assert "POST /fine_tuning/jobs/{id}/cancel" not in environment.endpoint.calls
    environment.endpoint.statuses = ("succeeded",)
    assert environment.resume().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_poll_timeout_cuts_long_pause(environment: FaultEnvironment) -> None:
    """Row 14: the last pause before the timeout is cut short."""
    environment.endpoint.statuses = ("queued",)
    with pytest.raises(StillRunningError):
        environment.train(timeout=2, poll_first_seconds=60.0, poll_max_seconds=60.0)
    assert max(environment.slept) <= 2


def test_poll_success_without_model_name_continues(environment: FaultEnvironment) -> None:
    """``succeeded`` before the name is there: ftpipe keeps looking."""
    body = {"id": "ftjob-0001", "status": "succeeded", "fine_tuned_model": None, "training_file": "file-0001"}
    environment.endpoint.script(GET_JOB, *[Fault(body=json.dumps(body).encode())] * 3)
    assert environment.train().state == RunState.REGISTERED


def test_poll_job_deleted_at_endpoint_is_an_error(environment: FaultEnvironment) -> None:
    """404 on a job that was created: exit 5 with the id; nothing new is made."""
    environment.endpoint.script(GET_JOB, None)
    environment.endpoint.always(GET_JOB, refusal(404, message="Could not find fine tune: ftjob-0001"))
    for attempt in (environment.train, environment.resume):
        with pytest.raises(NotFoundError, match="ftjob-0001"):
            attempt()
    assert len(environment.endpoint.jobs) == 1


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "\\u001b]0;owned\\u0007", "x" * 100_000])
def test_poll_odd_text_in_events_is_stored_safely(environment: FaultEnvironment, text: str) -> None:
    """Lone surrogates, NUL, escapes and endless lines from the endpoint are stored and never stop a run."""
    event = (
        '{"id": "ftevent-odd", "object": "fine_tuning.job.event", "created_at": 5, "level": "info", "type": "message",'
        f' "message": "{text}", "data": {{"{text[:20]}": "{text}"}}}}'
    )
    environment.endpoint.script(
        EVENTS, Fault(body=f'{{"object": "list", "has_more": false, "data": [{event}]}}'.encode())
    )
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_create_rejection_is_stored_without_control_characters(environment: FaultEnvironment) -> None:
    """Server words go into the journal and the run's error: no NUL (PostgreSQL refuses it), no escapes."""
    message = "bad\x00 \x1b[31mthing\x1b]0;owned\x07 \ud800 end"
    environment.endpoint.script("POST /fine_tuning/jobs", refusal(400, message=message))
    with pytest.raises(FtpipeError, match="end"):
        environment.train()
    run = environment.registry.runs.latest()
    assert run is not None
    assert run.error.isprintable()
    assert environment.resume().state == RunState.REGISTERED
