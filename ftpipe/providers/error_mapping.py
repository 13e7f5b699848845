"""Turns errors of the SDK into ftpipe's: what happened, whether the call was executed, and what to do next."""

from __future__ import annotations

import email.utils
import json
import math
import time
from dataclasses import dataclass

import httpx2
import openai

from ftpipe.errors import (
    AuthenticationError,
    ConnectionFailedError,
    FtpipeError,
    InvalidResponseError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    ResponseLostError,
    ResponseTimeoutError,
    TrainingNotAvailableError,
)
from ftpipe.providers.profiles import Profile
from ftpipe.providers.retry import DeadlineExceededError

NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
"""Transport errors after which the endpoint has surely not received the request."""

TOO_SLOW = (DeadlineExceededError, openai.APITimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout)
"""Errors after which the endpoint was reached but has not answered in time, unless their cause says otherwise."""

UNREADABLE = (
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,
    openai.APIResponseValidationError,
    InvalidResponseError,
)
"""Errors for a body that is not valid JSON."""

UNKNOWN_STATUSES = frozenset({408, 409})
"""Besides 5xx: statuses after which a write may have been executed."""

CHOOSE_BASE = "choose another base model with --model; `ftpipe models bases` lists what can be trained"

RESUME = "run `ftpipe resume`: it searches the endpoint for the result before anything is sent again"


@dataclass(frozen=True)
class CallContext:
    """Which call was made, for the message."""

    what: str
    """For example ``create the job``."""
    profile: Profile
    base_url: str
    writes: bool = False
    """Whether the call creates something, so that a lost response leaves the outcome unknown."""
    paid: bool = False
    """Whether what it creates costs money."""
    in_run: bool = True
    """Whether the call is a step of a run, so that ``ftpipe resume`` repeats it."""

    @property
    def again(self) -> str:
        """How to repeat the call later."""
        return "run `ftpipe resume`" if self.in_run else "run the same command again"

    def unknown(self, why: str) -> FtpipeError:
        """The error for a call that creates something and whose response was lost."""
        message = f"it is not known whether the attempt to {self.what} succeeded: {why}"
        return OutcomeUnknownError(message, RESUME) if self.paid else ResponseLostError(message, RESUME)


BY_CODE: dict[str, tuple[type[ProviderError], str, str]] = {
    "training_not_available": (
        TrainingNotAvailableError,
        "this organization is not allowed to create fine-tuning jobs at {title}",
        "train on your own machine with --provider local, or at another provider",
    ),
    "insufficient_quota": (
        QuotaError,
        "no credit or budget is left at {title}",
        "add credit or raise the budget, then {again}; nothing was created",
    ),
    "exceeded_quota": (
        QuotaError,
        "no credit or budget is left at {title}",
        "add credit or raise the budget, then {again}; nothing was created",
    ),
    "insufficient_balance": (
        QuotaError,
        "no credit or budget is left at {title}",
        "add credit or raise the budget, then {again}; nothing was created",
    ),
    "daily_rate_limit_exceeded": (
        RateLimitError,
        "the daily limit of fine-tuning jobs for this model is reached at {title} (it counts the whole organization)",
        "{again} tomorrow; nothing was created",
    ),
    "model_not_found": (
        NotFoundError,
        "{title} does not have this model",
        CHOOSE_BASE,
    ),
    "model_not_available": (
        RequestRefusedError,
        "{title} does not offer fine-tuning of this model",
        CHOOSE_BASE,
    ),
    "DEPLOYMENT_SCALING_UP": (
        RateLimitError,
        "the deployment at {title} was scaled to zero and is starting",
        "{again} in a few minutes",
    ),
}
"""Error code of the endpoint → ftpipe's error, what happened, what to do; ``{again}`` is ``CallContext.again``.

Source: error tables of the API and public run logs, 2026-11.
"""

RETRY_AFTER_SECONDS = {"DEPLOYMENT_SCALING_UP": 30.0}
"""Error code → how long to wait if the endpoint does not say: hardware starts in minutes.

Source: Fireworks documentation, autoscaling (503 until a replica is up), 2026-11-28.
"""


def translate(exc: BaseException, context: CallContext) -> FtpipeError:
    """Turn an error of the SDK, the transport or the deadline into one of ftpipe's."""
    if isinstance(exc, FtpipeError) and not isinstance(exc, DeadlineExceededError):
        return exc
    if isinstance(exc, openai.APIStatusError):
        return _status_error(exc, context)
    if isinstance(exc, TOO_SLOW) and not isinstance(exc.__cause__, NEVER_SENT):
        return _too_slow(exc, context)
    if isinstance(exc, openai.APIConnectionError):
        if isinstance(exc.__cause__, NEVER_SENT):
            return _never_sent(exc.__cause__, context)
        return _lost(f"the connection broke: {_reason(exc)}", context)
    if isinstance(exc, httpx2.TransportError):
        return (
            _never_sent(exc, context)
            if isinstance(exc, NEVER_SENT)
            else _lost(f"the connection broke: {_reason(exc)}", context)
        )
    if isinstance(exc, UNREADABLE):
        return invalid_response("the response was not complete JSON", context)
    return ProviderError(
        f"could not {context.what}: {type(exc).__name__}: {exc}", "run the command again with --debug for details"
    )


def invalid_response(why: str, context: CallContext) -> FtpipeError:
    """The error for a response that breaks the protocol; nothing of it may be stored."""
    if context.writes:
        return context.unknown(why)
    return InvalidResponseError(
        f"could not {context.what}: {why}",
        f"check that {context.base_url} is an OpenAI-compatible endpoint and not the page of a proxy",
    )


def _never_sent(cause: BaseException, context: CallContext) -> FtpipeError:
    setting = context.profile.base_url_env or "base_url"
    hint = f"check that it is running, {setting} and the network, then {context.again}; nothing was sent"
    return ConnectionFailedError(f"could not reach {context.base_url} to {context.what}: {_reason(cause)}", hint)


def _lost(why: str, context: CallContext) -> FtpipeError:
    if context.writes:
        return context.unknown(why)
    return ConnectionFailedError(
        f"could not {context.what} at {context.base_url}: {why}", f"check the network, then {context.again}"
    )


def _too_slow(exc: BaseException, context: CallContext) -> FtpipeError:
    why = exc.message if isinstance(exc, DeadlineExceededError) else "no response in time"
    if context.writes:
        return context.unknown(why)
    logs = "; `ftpipe serve logs` shows what it does" if context.profile.name == "local" else ""
    return ResponseTimeoutError(
        f"could not {context.what}: {context.base_url} was reached, but is too slow ({why})",
        f"it is busy or overloaded: run the same command again later{logs}",
    )


def _reason(exc: BaseException) -> str:
    cause = exc.__cause__ or exc
    return str(cause) or type(cause).__name__


def _status_error(exc: openai.APIStatusError, context: CallContext) -> FtpipeError:
    status, code, message = exc.status_code, _code_of(exc), _message_of(exc)
    error: FtpipeError
    if code in BY_CODE and status != 404:
        kind, what, hint = BY_CODE[code]
        title = context.profile.title or context.base_url
        error = kind(f"{what.format(title=title)} ({message})", hint.format(again=context.again))
    elif 300 <= status < 400:
        target = exc.response.headers.get("location", "another address")
        error = RequestRefusedError(
            f"{context.base_url} redirects to {target}, and ftpipe does not send the key to another host",
            "if that is the right endpoint, set it as base_url",
        )
    elif status in (401, 403):
        error = _auth_error(status, message, context)
    elif status == 429:
        error = RateLimitError(
            f"{context.profile.title or context.base_url} accepts no more requests for now: {message}",
            f"there are too many jobs or requests: wait for one to end, then {context.again}; nothing was created",
        )
    elif status >= 500 or status in UNKNOWN_STATUSES:
        error = _unknown_status(status, message, context)
    elif status == 404:
        error = NotFoundError(
            f"could not {context.what}: {message}",
            "check the name; `ftpipe models list` lists the models that you have trained"
            if code == "model_not_found"
            else "check that the id is of this endpoint and of this key's project",
        )
    else:
        error = RequestRefusedError(f"could not {context.what}: {message}", _refusal_hint(message))
    error.retry_after = _retry_after(exc.response.headers) or RETRY_AFTER_SECONDS.get(code)
    return error


def _unknown_status(status: int, message: str, context: CallContext) -> FtpipeError:
    if context.writes:
        return context.unknown(f"HTTP {status}: {message}")
    return ProviderError(
        f"could not {context.what}: {context.base_url} answered HTTP {status}: {message}",
        f"the endpoint has a problem; {context.again} later" + (" to continue from here" if context.in_run else ""),
    )


def _auth_error(status: int, message: str, context: CallContext) -> FtpipeError:
    name = context.profile.key_env or "the key"
    if status == 401:
        return AuthenticationError(
            f"{context.profile.title or context.base_url} refused the key: {message}",
            f"set {name} to a key that is valid there, then {context.again}",
        )
    return AuthenticationError(
        f"the key is not allowed to {context.what} at {context.profile.title or context.base_url}: {message}",
        f"set {name} to a key of the project that has permissions for fine-tuning and files, then {context.again}",
    )


def _refusal_hint(message: str) -> str:
    text = message.lower()
    if "model" in text:
        return CHOOSE_BASE
    if "file" in text and ("exist" in text or "found" in text):
        return "files belong to one project: use a key of the project that the file was uploaded to"
    return "the endpoint's message above says which value it does not accept"


def _body(exc: openai.APIStatusError) -> dict[str, object]:
    body = exc.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner if isinstance(inner, dict) else {}
    return {}


def _code_of(exc: openai.APIStatusError) -> str:
    body = _body(exc)
    code, kind = body.get("code"), body.get("type")
    return str(code or (kind if kind == "insufficient_quota" else "") or "")


def _message_of(exc: openai.APIStatusError) -> str:
    message = _body(exc).get("message")
    text = message if isinstance(message, str) and message else f"HTTP {exc.status_code}"
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:500]


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date); ``None`` for anything else."""
    millis, value = headers.get("retry-after-ms"), headers.get("retry-after")
    seconds: float | None = None
    try:
        if millis is not None:
            seconds = float(millis) / 1000
        elif value is not None:
            seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value or "")
        seconds = email.utils.mktime_tz(date) - time.time() if date else None
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return None
    return seconds
