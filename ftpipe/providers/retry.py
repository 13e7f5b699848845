"""Retries and deadlines: the only module that decides whether and when a call is made again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

from ftpipe.errors import ConnectionFailedError, FtpipeError, ProviderError, RateLimitError

T = TypeVar("T")

SAFE_ATTEMPTS = 6
"""How often a call that changes nothing is tried."""
WAIT_CAP_SECONDS = 120.0
"""The longest wait between two attempts, even if the endpoint asks for more."""


def is_transient(exc: BaseException) -> bool:
    """Whether the same safe call may succeed later: not after a refusal, with an empty account or at a daily limit."""
    if isinstance(exc, ConnectionFailedError):
        return True
    if isinstance(exc, RateLimitError):
        wait = retry_after_of(exc)
        return wait is None or wait <= WAIT_CAP_SECONDS
    return type(exc) is ProviderError


def retry_after_of(exc: BaseException) -> float | None:
    """Seconds that the endpoint asked to wait; ``None`` if it did not."""
    return exc.retry_after if isinstance(exc, FtpipeError) else None


def retry(
    call: Callable[[], T],
    *,
    retry_on: Callable[[BaseException], bool],
    attempts: int,
    first_wait: float,
    max_wait: float,
    jitter: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[BaseException], None] = lambda _exc: None,
) -> T:
    """Make a call until it succeeds, at most ``attempts`` times.

    The wait doubles after each attempt. It is longer if the endpoint asks for that, up to ``WAIT_CAP_SECONDS``.

    Args:
        call: What to do. It must be safe to do it twice.
        retry_on: Whether to try again after this error.
        attempts: How often the call is made, the first time included.
        first_wait: Seconds before the second attempt.
        max_wait: The longest wait in seconds, if the endpoint does not ask for more.
        jitter: Up to so many random seconds are added to each wait.
        sleep: Waits. What it raises ends the retries.
        on_retry: Is called with each error that is followed by another attempt, before the wait.

    Raises:
        Exception: The last error of the call, as it was raised.
    """
    backoff = tenacity.wait_exponential_jitter(multiplier=first_wait, max=max_wait, jitter=jitter)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(retry_on),
        stop=tenacity.stop_after_attempt(attempts),
        wait=_capped_wait(backoff, lambda: WAIT_CAP_SECONDS),
        sleep=sleep,
        before_sleep=_with_error(on_retry),
        reraise=True,
    )(call)


def retry_idempotent(
    call: Callable[[], T],
    *,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = SAFE_ATTEMPTS,
    on_retry: Callable[[BaseException], None] = lambda _exc: None,
) -> T:
    """Make a call that changes nothing, again after transient errors. Never use it for a call that creates or pays.

    Raises:
        Exception: The last error of the call, as it was raised.
    """
    return retry(
        call,
        retry_on=is_transient,
        attempts=attempts,
        first_wait=0.5,
        max_wait=20,
        jitter=1,
        sleep=sleep,
        on_retry=on_retry,
    )


def poll_until(
    call: Callable[[], T],
    *,
    is_done: Callable[[T], bool],
    retry_on: Callable[[BaseException], bool],
    seconds_left: Callable[[], float],
    first_wait: float,
    max_wait: float,
    max_pause: float,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[BaseException], None] = lambda _exc: None,
) -> T | None:
    """Make a call until its result is final; ``None`` if the time is up.

    Args:
        call: What to do; it changes nothing.
        is_done: Whether a result is final.
        retry_on: Whether to go on after this error.
        seconds_left: Time that is left; no wait is longer.
        first_wait: Seconds before the second call; each wait is 1.3 times as long as the one before.
        max_wait: The longest wait in seconds, if the endpoint does not ask for more.
        max_pause: The longest wait in seconds, even if the endpoint asks for more.
        sleep: Waits.
        on_retry: Is called with each error that is followed by another call, before the wait.

    Raises:
        Exception: An error of the call for which ``retry_on`` is false.
    """
    backoff = tenacity.wait_exponential_jitter(multiplier=first_wait, max=max_wait, jitter=first_wait / 2, exp_base=1.3)
    polling: tenacity.Retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda result: not is_done(result)) | tenacity.retry_if_exception(retry_on),
        stop=lambda _state: seconds_left() <= 0,
        wait=_capped_wait(backoff, lambda: min(max_pause, max(seconds_left(), 0.0))),
        sleep=sleep,
        before_sleep=_with_error(on_retry),
        retry_error_callback=lambda _state: None,
    )
    return polling(call)


class DeadlineExceededError(FtpipeError):
    """A call took longer than its wall-clock limit; whether it was executed is not known."""


def with_deadline(seconds: float | None, call: Callable[[], T]) -> T:
    """Run ``call`` in a thread and give up after ``seconds`` of wall-clock time, or at Ctrl-C; ``None`` for no limit.

    The timeouts of an HTTP client count per read, so an endpoint that sends a byte now and then would never time out.

    Raises:
        DeadlineExceededError: The time is up; the call goes on in its daemon thread and its result is dropped.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the caller's thread
            errors.append(exc)

    thread = threading.Thread(target=work, daemon=True, name="ftpipe-call")
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and seconds is not None:
        raise DeadlineExceededError(f"no complete response within {seconds:.0f} seconds")
    if errors:
        raise errors[0]
    return results[0]


def _capped_wait(
    backoff: Callable[[tenacity.RetryCallState], float], cap: Callable[[], float]
) -> Callable[[tenacity.RetryCallState], float]:
    """The backoff, or what the endpoint asks for if that is longer, but never more than the cap."""

    def wait(state: tenacity.RetryCallState) -> float:
        error = _error_of(state)
        requested = retry_after_of(error) if error else None
        return min(max(backoff(state), requested or 0.0), cap())

    return wait


def _with_error(on_retry: Callable[[BaseException], None]) -> Callable[[tenacity.RetryCallState], None]:
    def before_sleep(state: tenacity.RetryCallState) -> None:
        if error := _error_of(state):
            on_retry(error)

    return before_sleep


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome and state.outcome.failed else None
