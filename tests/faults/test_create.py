"""Faults at the paid call: whatever happens to it, there is one job, or none and a clear error."""

from __future__ import annotations

import json
import secrets
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpipe.errors import (
    AuthenticationError,
    ConnectionFailedError,
    FtpipeError,
    InvalidResponseError,
    OutcomeUnknownError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    TrainingNotAvailableError,
)
from ftpipe.providers.client import ApiClient
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.responses import job_of
from ftpipe.records import Job, RunState
from tests.examples import examples
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.scripted_server import LOST, NEVER, RESET, Fault, busy, refusal
from tests.faults.chaos_proxy import ChaosProxy, Toxics
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import LINE, ONE_OF_EACH, FaultEnvironment

CREATE = "POST /fine_tuning/jobs"
LIST = "GET /fine_tuning/jobs"

LOST_ANSWERS = {
    "dropped": LOST,
    "reset": RESET,
    "cut": Fault(then="cut"),
    "stalled": Fault(then="stall"),
    "dripping": Fault(then="drip"),
    "html": Fault(body=b"<html>Bad gateway</html>"),
    "null": Fault(body=b"null"),
    "empty object": Fault(body=b"{}"),
    "empty": Fault(body=b""),
    "cut json": Fault(body=b'{"id": "ftjob-1", "obj'),
    "list": Fault(body=b"[]"),
    "number": Fault(body=b"42"),
    "null id": Fault(body=b'{"id": null, "status": "queued"}'),
    "odd id": Fault(body=b'{"id": "../../etc/passwd", "status": "queued"}'),
    "no status": Fault(body=b'{"id": "ftjob-0001"}'),
    "not utf-8": Fault(body=b'{"id": "\xff\xfe"}'),
    "deep": Fault(body=b"[" * 100_000),
    "error object with 200": Fault(body=b'{"error": {"message": "boom"}}'),
    "500": refusal(500, executed=True),
    "502": refusal(502, executed=True),
    "503": refusal(503, executed=True),
    "408": refusal(408, executed=True),
    "409": refusal(409, executed=True),
}


@pytest.mark.parametrize("name", LOST_ANSWERS)
def test_create_finds_job_after_lost_response(environment: FaultEnvironment, name: str) -> None:
    """Rows 2, 7, 8, 9: the call was executed, its answer never came or was broken; the one job is adopted."""
    environment.endpoint.script(CREATE, LOST_ANSWERS[name])
    run = environment.train(request_timeout_seconds=0.6)
    assert run.state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert environment.endpoint.calls[CREATE] == 1


@pytest.mark.parametrize("fault", [NEVER, refusal(500), refusal(503), refusal(408), refusal(409)], ids=str)
def test_create_repeats_unexecuted_call_after_search(environment: FaultEnvironment, fault: Fault) -> None:
    """Row 7: the same signs, but nothing was made; the search finds nothing, and the second call makes the job."""
    environment.endpoint.script(CREATE, fault)
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert environment.endpoint.calls[CREATE] == 2


@pytest.mark.parametrize("quirks", [{"filters_metadata": False}, {"oldest_first": True}, {"list_lag": 0.15}], ids=str)
@pytest.mark.parametrize("stored", [True, False], ids=["metadata stored", "metadata dropped"])
def test_create_finds_lost_job_at_host_with_quirks(tmp_path: Path, quirks: dict[str, object], stored: bool) -> None:
    """Filter ignored, list in another order, list behind, metadata dropped: the job is still found."""
    with FaultEndpoint(keeps_metadata=stored, **quirks) as endpoint:
        for age in (90_000, 80_000):
            endpoint.seed_job(id=f"ftjob-old{age}", created_at=endpoint.now() - age, training_file="file-old")
        endpoint.script(CREATE, LOST)
        with FaultEnvironment(tmp_path, endpoint) as environment:
            assert environment.train().state == RunState.REGISTERED
            assert endpoint.calls[CREATE] == 1
            assert environment.counts() == {"files": 1, "jobs": 3, "models": 1, "costs": 1}


@pytest.mark.parametrize("skew", [-7200.0, -500.0, 500.0, 7200.0])
@pytest.mark.parametrize("filters", [True, False], ids=["filter", "no filter"])
def test_create_finds_lost_job_despite_clock_skew(tmp_path: Path, skew: float, filters: bool) -> None:
    """Row 24: the endpoint's clock is minutes or hours off; the key in the metadata finds the job all the same."""
    with (
        FaultEndpoint(skew=skew) as endpoint,
        FaultEnvironment(tmp_path, endpoint, profile={"metadata_filter": filters}) as environment,
    ):
        endpoint.script(CREATE, LOST)
        assert environment.train().state == RunState.REGISTERED
        assert endpoint.calls[CREATE] == 1


def test_create_sends_nothing_while_list_is_unreadable(environment: FaultEnvironment) -> None:
    """Row 7: answer lost and list down: exit 7, and every resume asks the list before anything else."""
    environment.endpoint.script(CREATE, LOST)
    environment.endpoint.always(LIST, refusal(503))
    environment.endpoint.script(LIST, None)  # the search before the first call passes
    with pytest.raises(OutcomeUnknownError) as caught:
        environment.train()
    assert caught.value.exit_code == 7
    assert "resume" in caught.value.hint
    with pytest.raises(OutcomeUnknownError):
        environment.resume()
    assert environment.endpoint.calls[CREATE] == 1
    environment.endpoint.always(LIST, None)
    assert environment.resume().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_create_failed_search_leaves_outcome_unknown(environment: FaultEnvironment, number: int) -> None:
    """Row 7: whichever of the looks at the list fails for good, the run ends with 7 and nothing is sent again."""
    calls = environment.endpoint.calls
    environment.endpoint.list_lag = 5.0
    environment.endpoint.script(CREATE, LOST)

    def down(route: str) -> None:
        if route == LIST and calls[LIST] >= 2 * number:  # the first is the search before the call
            environment.endpoint.always(LIST, refusal(503))

    environment.endpoint.after = down
    with pytest.raises(OutcomeUnknownError):
        environment.train()
    assert environment.endpoint.calls[CREATE] == 1


def test_create_does_not_follow_redirect_with_key(environment: FaultEnvironment) -> None:
    """Row 10: a redirect to another host is refused, and that host never sees the request."""
    with FaultEndpoint() as other:
        target = (("Location", f"{other.base_url}/fine_tuning/jobs"),)
        environment.endpoint.always(CREATE, Fault(executed=False, status=307, headers=target))
        with pytest.raises(RequestRefusedError, match="redirects to"):
            environment.train()
        assert other.requests == []
    assert environment.endpoint.calls[CREATE] == 1


@pytest.mark.parametrize("retry_after", ["0.05", "-3", "NaN", "soon", ""])
def test_retry_after_is_honored(environment: FaultEnvironment, retry_after: str) -> None:
    """Row 6: 429 on a safe call is waited out, and odd values fall back to the own pause."""
    environment.endpoint.script("GET /files", busy(Retry_After=retry_after), busy(retry_after_ms="40"))
    assert environment.train().state == RunState.REGISTERED
    assert max(environment.slept) < 10


def test_retry_after_beyond_cap_is_an_error(environment: FaultEnvironment) -> None:
    """Row 6: Retry-After of 300 s before anything exists is an error with what to do, not a silent wait."""
    environment.endpoint.always("GET /files", busy(Retry_After="300"))
    with pytest.raises(RateLimitError, match="slow down"):
        environment.train()
    assert environment.endpoint.calls["GET /files"] == 1


def test_retry_after_date_is_honored(environment: FaultEnvironment) -> None:
    """Row 6: the date form, here in the past, means now."""
    environment.endpoint.script("GET /files", busy(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    assert environment.train().state == RunState.REGISTERED


REFUSALS = [
    (refusal(429, "insufficient_quota", "You exceeded your current quota"), QuotaError, 5),
    (refusal(429, "daily_rate_limit_exceeded"), RateLimitError, 5),
    (refusal(429, "rate_limit_exceeded"), RateLimitError, 5),
    (refusal(403, "training_not_available"), TrainingNotAvailableError, 5),
    (refusal(403, "unsupported_country_region_territory"), AuthenticationError, 4),
    (refusal(401, "invalid_api_key"), AuthenticationError, 4),
    (refusal(400, "model_not_available"), RequestRefusedError, 5),
    (refusal(400, None, "invalid training_file: file-1 does not exist"), RequestRefusedError, 5),
    (refusal(400, "invalidPayload", "file is not processed"), RequestRefusedError, 5),
    (refusal(413), RequestRefusedError, 5),
    (refusal(422), RequestRefusedError, 5),
]


@pytest.mark.parametrize(
    ("fault", "kind", "code"), REFUSALS, ids=lambda value: getattr(value, "code", None) or str(value)
)
def test_create_reports_rejection_once(
    environment: FaultEnvironment, fault: Fault, kind: type[FtpipeError], code: int
) -> None:
    """Rows 6, 16, 17: one POST, the mapped error with its exit code and a next step, no job, and resume tries anew."""
    environment.endpoint.script(CREATE, fault)
    with pytest.raises(kind) as caught:
        environment.train()
    assert caught.value.exit_code == code
    assert caught.value.hint
    assert environment.endpoint.calls[CREATE] == 1
    assert not environment.endpoint.jobs
    assert environment.resume().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_create_uses_oldest_of_two_jobs_with_one_key(environment: FaultEnvironment) -> None:
    """Row 15: the endpoint made two jobs of one call; the older is adopted, the younger is told."""

    def twin(route: str) -> None:
        if route == CREATE and len(environment.endpoint.jobs) == 1:
            first = next(iter(environment.endpoint.jobs.values()))
            environment.endpoint.seed_job(**{**first, "id": "ftjob-twin", "created_at": first["created_at"] + 5})

    environment.endpoint.after = twin
    environment.endpoint.script(CREATE, LOST)
    run = environment.train()
    assert run.job is not None
    assert run.job.id == "ftjob-0001"
    assert any("ftjob-twin" in message and "cancel" in message for message in environment.recorded.messages)


def test_train_continues_after_revoked_key_is_replaced(environment: FaultEnvironment) -> None:
    """Row 16: 401 at any step is exit 4; with a new key the same run goes on, and nothing is paid twice."""
    for step in ("GET /files", "POST /files", CREATE, "GET /fine_tuning/jobs/{id}"):
        environment.endpoint.script(step, refusal(401, "invalid_api_key"))
        with pytest.raises(AuthenticationError) as caught:
            environment.train() if step == "GET /files" else environment.resume()
        assert caught.value.exit_code == 4
        assert environment.registry.runs.latest().state != RunState.FAILED  # type: ignore[union-attr]
    environment.key = "sk-test-another-0123456789"
    assert environment.resume().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_create_closed_port_is_not_unknown(environment: FaultEnvironment) -> None:
    """Row 4: connection refused: retried, exit 5, the journal says that nothing was sent."""
    environment.base_url = "http://127.0.0.1:9/v1"
    with pytest.raises(ConnectionFailedError) as caught:
        environment.train()
    assert caught.value.exit_code == 5
    environment.base_url = environment.endpoint.base_url


def test_create_port_closed_before_paid_call_is_rejected(environment: FaultEnvironment) -> None:
    """Row 4: refused exactly at the create call: the journal holds a rejection, not a doubt."""
    environment.endpoint.always(LIST, Fault(headers=(("Connection", "close"),)))
    environment.endpoint.after = lambda route: environment.endpoint.refuse_connections() if route == LIST else None
    with pytest.raises(ConnectionFailedError) as caught:
        environment.train()
    assert (caught.value.exit_code, caught.value.paid) == (5, "no")
    run = environment.registry.runs.latest()
    assert run is not None
    operation = environment.registry.journal.find(environment.registry.runs.operation_key(run, "create_job"))
    assert operation is not None
    assert operation.state == "rejected"


def test_create_failed_tls_handshake_is_not_unknown(environment: FaultEnvironment) -> None:
    """Row 4: a TLS handshake that fails is exit 5, and nothing has been sent."""
    environment.base_url = environment.base_url.replace("http://", "https://")
    with pytest.raises(ConnectionFailedError) as caught:
        environment.train()
    assert caught.value.exit_code == 5
    assert not environment.endpoint.requests


@pytest.mark.parametrize(
    "toxics",
    [
        Toxics(latency=0.05),
        Toxics(slicer=60),
        Toxics(bandwidth=20_000),
        Toxics(slow_close=0.2),
    ],
    ids=["latency", "slicer", "bandwidth", "slow close"],
)
def test_train_over_slow_connection(environment: FaultEnvironment, toxics: Toxics) -> None:
    """Delays, small pieces and little bandwidth change nothing but the time."""
    with ChaosProxy(environment.endpoint.port, toxics) as proxy:
        environment.base_url = proxy.base_url
        assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


@pytest.mark.parametrize(
    "toxics", [Toxics(limit_data=0), Toxics(timeout=0.1), Toxics(reset_peer=0.0), Toxics(limit_data=100)], ids=str
)
def test_create_reconciles_after_connection_reset(environment: FaultEnvironment, toxics: Toxics) -> None:
    """Rows 2, 8: the proxy spoils the line from the paid call on; over a whole line the job is found again."""
    with ChaosProxy(environment.endpoint.port) as proxy:
        environment.base_url = proxy.base_url

        def spoil(route: str) -> None:
            if route == CREATE:
                proxy.toxics = toxics

        environment.endpoint.before = spoil
        with pytest.raises(OutcomeUnknownError) as caught:
            environment.train(request_timeout_seconds=0.5)
        assert caught.value.exit_code == 7
        assert len(environment.endpoint.jobs) == 1
        environment.endpoint.before = lambda _route: None
        proxy.toxics = Toxics()
        assert environment.resume().state == RunState.REGISTERED
    assert environment.endpoint.calls[CREATE] == 1
    assert environment.counts() == ONE_OF_EACH


def test_create_concurrent_with_idempotency_key_makes_one_job(tmp_path: Path) -> None:
    """Row 22: colleagues who share no database but a host with idempotency keys pay once."""
    with FaultEndpoint(honors_keys=True) as endpoint:
        environments = [FaultEnvironment(tmp_path / str(number), endpoint) for number in range(8)]
        for environment in environments:
            environment.registry  # noqa: B018 - opened before the race
        assert not endpoint.jobs
        threads = [threading.Thread(target=environment.train) for environment in environments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(endpoint.jobs) == 1
        assert [len(environment.registry.models.recent()) for environment in environments] == [1] * 8
        for environment in environments:
            environment.close()


def test_create_reuses_existing_job_unless_force_new(environment: FaultEnvironment) -> None:
    """Two runs of the same data make one job; ``--force-new`` makes another of the same file."""
    first = environment.train()
    assert environment.train().id == first.id
    environment.train(force_new=True)
    assert environment.counts() == {"files": 1, "jobs": 2, "models": 2, "costs": 2}


@pytest.mark.parametrize("profile", [{"metadata_stored": False, "metadata_filter": False}, {}], ids=["told", "untold"])
@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_create_force_new_without_metadata_ignores_earlier_job(
    tmp_path: Path, profile: dict[str, bool], executed: bool
) -> None:
    """Within minutes of the first job the answer to a second one is lost: the first one is never taken for it."""
    with (
        FaultEndpoint(keeps_metadata=False) as endpoint,
        FaultEnvironment(tmp_path, endpoint, profile=profile) as environment,
    ):
        first = environment.train()
        endpoint.script(CREATE, LOST if executed else NEVER)
        second = environment.train(force_new=True)
        assert (second.job.id if second.job else "") == "ftjob-0002" != (first.job.id if first.job else "")
        assert environment.counts() == {"files": 1, "jobs": 2, "models": 2, "costs": 2}


def test_create_ignores_preexisting_foreign_job(tmp_path: Path) -> None:
    """The same file at a host without metadata, trained by a colleague's registry a minute ago: it stays theirs."""
    with FaultEndpoint(keeps_metadata=False) as endpoint:
        profile = {"metadata_stored": False, "metadata_filter": False}
        with FaultEnvironment(tmp_path / "theirs", endpoint, profile=profile) as theirs:
            theirs.train()
        endpoint.script(CREATE, NEVER)
        with FaultEnvironment(tmp_path / "mine", endpoint, profile=profile) as mine:
            run = mine.train()
        assert (run.job.id if run.job else "", len(endpoint.jobs)) == ("ftjob-0002", 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("id", "status", "model", "created_at", "metadata", "error", "hyperparameters", "method", "result_files")


@settings(max_examples=examples(40, 150))
@given(body=st.fixed_dictionaries({}, optional={name: JSON for name in FIELDS}))
def test_job_of_any_body_returns_job_or_typed_error(body: dict[str, object]) -> None:
    """Row 9: bodies that Hypothesis makes never raise anything but ftpipe's own errors, and can always be stored."""
    client = ApiClient(find_profile("openai"), FakeOpenAI().as_client, base_url="http://127.0.0.1")
    text = json.dumps(body)
    try:
        job = client.call_once("get job", lambda _: json.loads(text), lambda a: job_of(a, endpoint="e", provider="p"))
    except InvalidResponseError as error:
        assert error.hint
    else:
        assert Job.model_validate_json(job.model_dump_json()) == job


@settings(max_examples=examples(3, 8), suppress_health_check=list(HealthCheck))
@given(body=st.fixed_dictionaries({}, optional={name: JSON for name in FIELDS}))
def test_create_any_response_body_makes_one_job(tmp_path: Path, body: dict[str, object]) -> None:
    """Row 9: the same bodies over the wire as the answer to the paid call and to a look: one job, one model."""
    with FaultEndpoint() as endpoint:
        environment = FaultEnvironment(tmp_path / secrets.token_hex(4), endpoint, content=LINE * 3)
        for route in (CREATE, "GET /fine_tuning/jobs/{id}"):
            endpoint.script(route, Fault(body=json.dumps(body).encode()))
        assert environment.train(timeout=60).state == RunState.REGISTERED
        assert environment.counts() == ONE_OF_EACH
        environment.close()
