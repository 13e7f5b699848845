"""Mapping of the SDK's errors to ftpipe's, retries and deadlines."""

from __future__ import annotations

import json
import time

import httpx2
import openai
import pytest

from ftpipe import errors
from ftpipe.providers.error_mapping import CallContext, translate
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.retry import (
    DeadlineExceededError,
    is_transient,
    retry_after_of,
    retry_idempotent,
    with_deadline,
)
from tests.fakes.openai_client import lost_response, never_sent, status_error

PROFILE = find_profile("openai")
READ = CallContext("get the job", PROFILE, "https://api.openai.com/v1")
PAID = CallContext("create the job", PROFILE, "https://api.openai.com/v1", writes=True, paid=True)
UNPAID = CallContext("upload a.jsonl", PROFILE, "https://api.openai.com/v1", writes=True)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, None, errors.RequestRefusedError),
        (401, "invalid_api_key", errors.AuthenticationError),
        (403, None, errors.AuthenticationError),
        (403, "training_not_available", errors.TrainingNotAvailableError),
        (404, None, errors.NotFoundError),
        (422, None, errors.RequestRefusedError),
        (429, None, errors.RateLimitError),
        (429, "insufficient_quota", errors.QuotaError),
        (429, "daily_rate_limit_exceeded", errors.RateLimitError),
        (400, "model_not_available", errors.RequestRefusedError),
        (307, None, errors.RequestRefusedError),
    ],
)
def test_translate_refusal_is_never_unknown(status: int, code: str | None, expected: type) -> None:
    """Each documented refusal says that nothing was executed, also for a paid call."""
    found = translate(status_error(status, code=code), PAID)
    assert type(found) is expected
    assert found.paid == "no"
    assert found.hint


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504])
def test_translate_uncertain_status_of_paid_call_is_unknown(status: int) -> None:
    """After these the job may exist, so the exit code is 7 and the hint is resume."""
    found = translate(status_error(status), PAID)
    assert type(found) is errors.OutcomeUnknownError
    assert (found.exit_code, found.paid) == (7, "unknown")
    assert "ftpipe resume" in found.hint


@pytest.mark.parametrize("fault", [lost_response(), json.JSONDecodeError("x", "", 0), DeadlineExceededError("late")])
def test_translate_lost_response_of_paid_call_is_unknown(fault: Exception) -> None:
    """Broken connections, broken bodies and deadlines do not say whether the job was made."""
    assert type(translate(fault, PAID)) is errors.OutcomeUnknownError


@pytest.mark.parametrize(
    "fault",
    [
        *(status_error(500), status_error(401), status_error(429), lost_response(), never_sent()),
        *(status_error(429, code=code) for code in ("insufficient_quota", "daily_rate_limit_exceeded")),
    ],
)
def test_translate_hint_names_resume_only_for_a_run(fault: Exception) -> None:
    """A chat has nothing to resume."""
    chat = CallContext("get a completion", PROFILE, "https://api.openai.com/v1", in_run=False)
    assert "run the same command again" in translate(fault, chat).hint
    assert "ftpipe resume" in translate(fault, READ).hint


def test_translate_lost_response_of_upload_is_not_unknown() -> None:
    """Uploads cost nothing, so exit code 5 and not 7."""
    found = translate(lost_response(), UNPAID)
    assert (type(found), found.exit_code) == (errors.ResponseLostError, 5)


def test_translate_refused_connection_was_never_sent() -> None:
    """Nobody listened, so even a paid call was surely not executed."""
    assert type(translate(never_sent(), PAID)) is errors.ConnectionFailedError


def read_timeout() -> openai.APITimeoutError:
    """What the SDK raises if no byte came in time."""
    error = openai.APITimeoutError(request=httpx2.Request("POST", "http://127.0.0.1/v1"))
    error.__cause__ = httpx2.ReadTimeout("timed out")
    return error


@pytest.mark.parametrize("fault", [read_timeout(), httpx2.ReadTimeout("late"), DeadlineExceededError("late")], ids=repr)
def test_translate_slow_endpoint_is_not_unreachable(fault: Exception) -> None:
    """It was reached: the network is not what has to be checked."""
    slow = translate(fault, READ)
    assert type(slow) is errors.ResponseTimeoutError
    assert "too slow" in slow.message
    assert "network" not in slow.message + slow.hint
    assert is_transient(slow)
    assert type(translate(fault, PAID)) is errors.OutcomeUnknownError
    assert type(translate(fault, UNPAID)) is errors.ResponseLostError


def test_translate_connection_that_times_out_is_unreachable() -> None:
    error = openai.APITimeoutError(request=httpx2.Request("POST", "http://127.0.0.1/v1"))
    error.__cause__ = httpx2.ConnectTimeout("timed out")
    assert type(translate(error, PAID)) is errors.ConnectionFailedError


def test_translate_maps_every_sdk_error() -> None:
    """A new error class in the SDK's API family must not fall through to the generic line unseen."""
    things = list(vars(openai).values())
    kinds = [kind for kind in things if isinstance(kind, type) and issubclass(kind, openai.APIStatusError)]
    kinds.remove(openai.OAuthError)  # built from a token exchange, which ftpipe never makes; a child of 401
    for kind in kinds:
        response = httpx2.Response(418, request=httpx2.Request("GET", "http://127.0.0.1"))
        made = translate(kind("teapot", response=response, body=None), READ)
        assert isinstance(made, errors.FtpipeError)
        assert made.hint


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_formats(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, fractions and milliseconds count; negative, NaN and nonsense do not."""
    assert retry_after_of(translate(status_error(429, headers=headers), READ)) == seconds


def test_retry_after_date() -> None:
    """An HTTP date in the future is a wait."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    found = retry_after_of(translate(status_error(429, headers={"retry-after": date}), READ))
    assert found is not None
    assert 25 < found <= 31


def test_retry_idempotent_waits_for_retry_after() -> None:
    """Two faults, then the answer; the endpoint's own wait is kept."""
    script: list[Exception | str] = [status_error(429, headers={"retry-after": "7"}), lost_response(), "answer"]
    slept: list[float] = []

    def call() -> str:
        step = script.pop(0)
        if isinstance(step, Exception):
            raise translate(step, READ)
        return step

    assert retry_idempotent(call, sleep=slept.append) == "answer"
    assert slept[0] >= 7


def test_is_transient_excludes_quota_and_long_waits() -> None:
    """Neither passes by waiting a little."""
    assert not is_transient(translate(status_error(429, code="insufficient_quota"), READ))
    assert not is_transient(translate(status_error(429, headers={"retry-after": "300"}), READ))


def test_with_deadline_stops_waiting() -> None:
    """The wall clock counts, not the time between two bytes."""
    with pytest.raises(DeadlineExceededError, match="0 seconds"):
        with_deadline(0.05, lambda: time.sleep(5))


def test_translate_never_shows_the_key() -> None:
    """What the endpoint says may be shown, the request's headers never."""
    request = httpx2.Request("POST", "http://127.0.0.1", headers={"authorization": "Bearer sk-canary"})
    response = httpx2.Response(500, request=request)
    made = translate(openai.InternalServerError("boom", response=response, body=None), PAID)
    assert "canary" not in made.message + made.hint + repr(made)
