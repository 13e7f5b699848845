"""The rows of the fault table at Fireworks, whose job ids are chosen by ftpipe: one job, without a search in lists."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.errors import (
    AuthenticationError,
    ConnectionFailedError,
    DatasetError,
    FtpipeError,
    JobFailedError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    RateLimitError,
    RequestRefusedError,
    StillRunningError,
    UsageError,
)
from ftpipe.providers.fireworks.job_request import job_id_of
from ftpipe.records import Method, RunState
from tests.fakes.fireworks import BASE, PARENT, FireworksServer
from tests.fakes.scripted_server import LOST, NEVER, RESET, Fault, busy, refusal
from tests.faults.chaos_proxy import ChaosProxy, Toxics
from tests.faults.environment import KEY, ONE_OF_EACH
from tests.faults.fireworks_environment import FireworksEnvironment, environment_at

CREATE = "POST /supervisedFineTuningJobs"
GET_JOB = "GET /supervisedFineTuningJobs/{job}"
LIST = "GET /supervisedFineTuningJobs"
CREATE_DATASET = "POST /datasets"
UPLOAD = "POST /datasets/{dataset}:upload"
GET_DATASET = "GET /datasets/{dataset}"
GET_MODEL = "GET /models/{model}"

LOST_ANSWERS = {
    "dropped": LOST,
    "reset": RESET,
    "cut": Fault(then="cut"),
    "stalled": Fault(then="stall"),
    "html": Fault(body=b"<html>Bad gateway</html>"),
    "null": Fault(body=b"null"),
    "empty object": Fault(body=b"{}"),
    "empty": Fault(body=b""),
    "list": Fault(body=b"[]"),
    "odd name": Fault(body=b'{"name": "../../etc/passwd", "state": "JOB_STATE_CREATING"}'),
    "no state": Fault(body=b'{"name": "accounts/acme/supervisedFineTuningJobs/x", "dataset": "d"}'),
    "deep": Fault(body=b"[" * 100_000),
    "500": refusal(500, executed=True),
    "503": refusal(503, executed=True),
    "408": refusal(408, executed=True),
    "409": refusal(409, "6", executed=True),
}


@pytest.fixture
def host() -> Iterator[FireworksServer]:
    """A local Fireworks; at the end, every request was one that the description allows, and no signed URL got a key."""
    with FireworksServer() as running:
        yield running
    assert (running.violations, running.urls_with_key) == ([], [])


@pytest.fixture
def environment(host: FireworksServer, tmp_path: Path) -> Iterator[FireworksEnvironment]:
    """A user's folder beside it."""
    opened = environment_at(tmp_path, host)
    yield opened
    opened.close()


def test_train_registers_model(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """The whole pipeline: base checked, dataset uploaded and ready, job, metrics, model; and nothing was listed."""
    run = environment.train()
    assert run.state == RunState.REGISTERED
    assert run.model is not None
    assert run.model.id.startswith(f"{PARENT}/models/")
    assert environment.counts() == ONE_OF_EACH
    assert run.model.metrics is not None
    assert run.model.metrics.train_loss is not None
    assert host.calls[LIST] == host.calls["GET /dpoJobs"] == 0


def test_train_states_epochs_and_learning_rate(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """A multiplier becomes an absolute rate, and the request carries what the plan says."""
    environment.train(spec={"hyperparameters": {"learning_rate_multiplier": 2.0}})
    assert host.bodies[0]["learningRate"] == pytest.approx(2e-4)
    assert host.bodies[0]["epochs"] == 3


def test_train_again_continues_the_same_run(environment: FireworksEnvironment, host: FireworksServer) -> None:
    first, second = environment.train(), environment.train()
    assert first.id == second.id
    assert environment.train(force_new=True).id != first.id
    assert (len(host.jobs), len(host.datasets)) == (2, 1)


@pytest.mark.parametrize("name", LOST_ANSWERS)
def test_create_finds_job_after_lost_response(
    environment: FireworksEnvironment, host: FireworksServer, name: str
) -> None:
    """Rows 2, 7, 8, 9: the job is got by its id; one POST, and no list."""
    host.script(CREATE, LOST_ANSWERS[name])
    seconds = 1.0 if name == "stalled" else 5.0  # only that answer is waited for in vain
    assert environment.train(request_timeout_seconds=seconds).state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert (host.calls[CREATE], host.calls[LIST]) == (1, 0)


@pytest.mark.parametrize("fault", [NEVER, refusal(500), refusal(503), refusal(408), refusal(409, "6")], ids=str)
def test_create_repeats_unexecuted_call_with_same_id(
    environment: FireworksEnvironment, host: FireworksServer, fault: Fault
) -> None:
    """Row 7: the same signs, but nothing was made: 404 for the id, and the second POST has the same one."""
    host.script(CREATE, fault)
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert (host.calls[CREATE], host.calls[LIST]) == (2, 0)


def test_create_lost_job_that_is_not_readable_yet_is_not_made_twice(
    environment: FireworksEnvironment, host: FireworksServer
) -> None:
    """The answer is lost and the job cannot be got yet: the same id is sent again, and 409 leads to the job."""
    host.script(CREATE, LOST)
    host.script(GET_JOB, None, None, refusal(404, "5"))  # two looks before the call, and the one after it
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert host.calls[CREATE] == 2


def test_create_lost_job_that_has_failed_is_not_made_again(
    environment: FireworksEnvironment, host: FireworksServer
) -> None:
    """The same, and the job has failed by then: it is that job that is reported, and no second one is paid."""
    host.states = ("JOB_STATE_FAILED",)
    host.script(CREATE, LOST)
    host.script(GET_JOB, None, None, refusal(404, "5"))
    with pytest.raises(JobFailedError):
        environment.train()
    assert len(host.jobs) == 1


def test_create_sends_nothing_while_job_cannot_be_looked_up(
    environment: FireworksEnvironment, host: FireworksServer
) -> None:
    """Row 7: answer lost and the host down: exit 7, and a resume looks before anything else."""
    host.script(CREATE, LOST)
    host.before = lambda route: host.always(GET_JOB, refusal(503)) if route == CREATE else None
    with pytest.raises(OutcomeUnknownError) as caught:
        environment.train()
    assert caught.value.exit_code == 7
    with pytest.raises(OutcomeUnknownError):
        environment.resume()
    assert host.calls[CREATE] == 1
    host.always(GET_JOB, None)
    assert environment.resume().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_create_ignores_ended_job_of_lost_registry(host: FireworksServer, tmp_path: Path) -> None:
    """A job of the same key that failed before the registry was lost: a new one, found even if its answer is lost."""
    host.states = ("JOB_STATE_FAILED",)
    with environment_at(tmp_path / "first", host) as first, pytest.raises(JobFailedError):
        first.train()
    for job in host.jobs.values():
        job["fixed"] = True
    host.states = ("JOB_STATE_RUNNING", "JOB_STATE_COMPLETED")
    host.script(CREATE, LOST)
    second = environment_at(tmp_path / "second", host)
    assert second.train().state == RunState.REGISTERED
    assert (len(host.jobs), host.calls[CREATE]) == (2, 2)
    third = environment_at(tmp_path / "third", host)
    assert third.train().state == RunState.REGISTERED
    assert len(host.jobs) == 2
    for environment in (second, third):
        environment.close()


def test_create_concurrent_from_two_registries_makes_one_job(host: FireworksServer, tmp_path: Path) -> None:
    """Row 22: colleagues who share no database make the same id, so they pay once."""
    environments = [environment_at(tmp_path / str(number), host) for number in range(4)]
    for environment in environments:
        environment.registry  # noqa: B018 - opened before the race
    threads = [threading.Thread(target=environment.train) for environment in environments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(host.jobs), len(host.datasets)) == (1, 1)
    assert [len(environment.registry.models.recent()) for environment in environments] == [1] * 4
    for environment in environments:
        environment.close()


def test_create_takes_job_that_appears_while_it_looks(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Row 22: a colleague's call comes between two looks; its id is not taken for one that is used up."""
    job_id = ""

    def colleague(route: str) -> None:
        nonlocal job_id
        if route == "GET /dpoJobs/{job}" and not host.jobs:  # the end of the first look
            run = environment.registry.runs.latest()
            assert run is not None
            job_id = job_id_of(environment.registry.runs.operation_key(run, "create_job"), Method.SUPERVISED)
            host.jobs[f"{PARENT}/supervisedFineTuningJobs/{job_id}"] = {
                **{"name": f"{PARENT}/supervisedFineTuningJobs/{job_id}", "state": "JOB_STATE_RUNNING", "reads": 0},
                **{"dataset": "d", "baseModel": BASE, "outputModel": f"{PARENT}/models/{job_id}"},
                "createTime": "2026-11-28T00:00:00Z",
            }

    host.after = colleague
    run = environment.train()
    assert (run.state, run.job.id if run.job else "", len(host.jobs)) == (RunState.REGISTERED, job_id, 1)


@pytest.mark.parametrize("fault", [LOST, RESET, NEVER, refusal(503), busy(Retry_After="0.1")], ids=str)
@pytest.mark.parametrize("route", [CREATE_DATASET, UPLOAD])
def test_upload_survives_lost_response(
    environment: FireworksEnvironment, host: FireworksServer, route: str, fault: Fault
) -> None:
    """Row 3: creating and sending are safe to repeat, because the id names the content."""
    host.script(route, fault)
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert len(host.contents) == 1


def test_upload_refused_dataset_is_a_dataset_error(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Row 12: the host's message, exit 1, nothing paid."""
    host.dataset_status = {"code": "INVALID_ARGUMENT", "message": "line 3: no assistant message"}
    with pytest.raises(DatasetError, match="line 3"):
        environment.train()
    assert not host.jobs


@pytest.mark.slow
def test_upload_stuck_dataset_ends_after_limit(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Row 12: a dataset that never gets ready is waited for, but not for ever."""
    host.processing_reads = 10**6
    with pytest.raises(RequestRefusedError, match="still 'processing'"):
        environment.train()
    assert not host.jobs


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (refusal(401, "16"), AuthenticationError, 4),
        (refusal(403, "7"), AuthenticationError, 4),
        (refusal(429, "8", "GPU quota is used up"), RateLimitError, 5),
        (refusal(400, "3", "learning rate out of range"), RequestRefusedError, 5),
        (refusal(412, "9"), RequestRefusedError, 5),
    ],
    ids=str,
)
def test_create_reports_rejection_once(
    environment: FireworksEnvironment, host: FireworksServer, fault: Fault, kind: type[FtpipeError], code: int
) -> None:
    """Rows 6, 16: one POST, the mapped error, no job, and resume tries anew."""
    host.script(CREATE, fault)
    with pytest.raises(kind) as caught:
        environment.train()
    assert (caught.value.exit_code, bool(caught.value.hint)) == (code, True)
    assert (host.calls[CREATE], len(host.jobs)) == (1, 0)
    assert environment.resume().state == RunState.REGISTERED


def test_create_does_not_follow_redirect_with_key(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Row 10: refused, and the other host receives nothing."""
    with FireworksServer() as other:
        target = (("Location", f"{other.base_url}/v1/{PARENT}/supervisedFineTuningJobs"),)
        host.always(CREATE, Fault(executed=False, status=307, headers=target))
        with pytest.raises(RequestRefusedError, match="redirects to"):
            environment.train()
        assert other.requests == []


def test_train_checks_base_before_upload(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """A base that cannot be trained is refused before a byte is sent."""
    with pytest.raises(RequestRefusedError, match="supervisedLoraTunable"):
        environment.train(spec={"model": "whisper-v3"})
    with pytest.raises(NotFoundError):
        environment.train(spec={"model": "no-such-model"})
    assert (host.datasets, host.jobs) == ({}, {})


def test_train_refuses_what_cannot_be_expressed(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """A seed has no counterpart, so the plan says so before anything is sent."""
    with pytest.raises(UsageError, match="seed"):
        environment.train(spec={"seed": 7})
    assert host.requests == []


@pytest.mark.parametrize("state", ["JOB_STATE_PENDING", "JOB_STATE_PAUSED", "JOB_STATE_MELTING", "X"])
def test_poll_stuck_or_unknown_state_ends_at_timeout(
    environment: FireworksEnvironment, host: FireworksServer, state: str
) -> None:
    """Row 14: an unknown word neither ends nor fails the job."""
    host.states, host.checks_answers = (state,), False
    with pytest.raises(StillRunningError):
        environment.train(timeout=0.3)
    assert [job["state"] for job in host.jobs.values()] == [state]
    host.states = ("COMPLETED",)
    assert environment.resume().state == RunState.REGISTERED


@pytest.mark.parametrize("state", ["JOB_STATE_FAILED", "EXPIRED", "JOB_STATE_CANCELLED"])
def test_poll_ended_job_reports_reason(environment: FireworksEnvironment, host: FireworksServer, state: str) -> None:
    """Row 13: exit 1 with the host's message; saved."""
    host.states, host.job_status = (state,), {"code": "INTERNAL", "message": "out of memory"}
    host.checks_answers = False
    with pytest.raises(JobFailedError, match="out of memory"):
        environment.train()
    run = environment.registry.runs.latest()
    assert run is not None
    assert run.state == RunState.FAILED


def test_poll_survives_flapping_network(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Row 5: reads that fail in between change nothing."""
    host.script(GET_JOB, None, refusal(503), LOST, Fault(body=b"{"), RESET, busy(Retry_After="0.1"))
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_train_continues_after_revoked_key_is_replaced(
    environment: FireworksEnvironment, host: FireworksServer
) -> None:
    """Row 16: 401 at any step is exit 4; with a new key the same run goes on, and nothing is paid twice."""
    for step in (GET_MODEL, CREATE_DATASET, UPLOAD, CREATE, GET_JOB):
        host.script(step, *([None] if step == GET_JOB else []), refusal(401, "16"))
        with pytest.raises(AuthenticationError):
            environment.train() if environment.registry.runs.latest() is None else environment.resume()
        host.forget(step)
    environment.key = "fw-another-key-0123456789"
    assert environment.resume().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_create_closed_port_is_not_unknown(environment: FireworksEnvironment) -> None:
    """Row 4: connection refused: exit 5, nothing was sent."""
    environment.base_url = "http://127.0.0.1:9"
    with pytest.raises(ConnectionFailedError):
        environment.train()


def test_create_reconciles_after_connection_reset(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Rows 2, 8: the line is spoiled from the paid call on; over a whole line the job is got by its id."""
    with ChaosProxy(host.port) as proxy:
        environment.base_url = proxy.base_url.removesuffix("/v1")
        host.before = lambda route: setattr(proxy, "toxics", Toxics(reset_peer=0.0)) if route == CREATE else None
        with pytest.raises(OutcomeUnknownError):
            environment.train(request_timeout_seconds=0.5)
        host.before = lambda _route: None
        proxy.toxics = Toxics()
        assert environment.resume().state == RunState.REGISTERED
    assert (host.calls[CREATE], environment.counts()) == (1, ONE_OF_EACH)


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_create_finds_lost_job_despite_clock_skew(
    environment: FireworksEnvironment, host: FireworksServer, skew: float
) -> None:
    """Row 24: an id needs no clock."""
    host.skew = skew
    host.script(CREATE, LOST)
    assert environment.train().state == RunState.REGISTERED
    assert (host.calls[CREATE], environment.counts()) == (1, ONE_OF_EACH)


def test_train_keeps_the_key_out_of_messages(environment: FireworksEnvironment, host: FireworksServer) -> None:
    """Row 40: a host that repeats the key in a message."""
    host.script(CREATE, refusal(400, "3", f"bad key {KEY}"))
    with pytest.raises(ProviderError) as caught:
        environment.train()
    assert KEY not in str(caught.value)
    assert KEY not in (environment.folder / "registry.db").read_bytes().decode("latin-1")
