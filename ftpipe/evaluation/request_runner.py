"""Send many chat requests concurrently: rate limited, retried if that is safe, and cached one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ftpipe.errors import (
    AuthenticationError,
    FtpipeError,
    InterruptedRunError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    QuotaError,
    RequestRefusedError,
    TrainingNotAvailableError,
)
from ftpipe.evaluation.response_cache import ChatClient, Request, ResponseCache
from ftpipe.providers.retry import retry
from ftpipe.records.evaluation import Answer

Progress = Callable[[int, int], None]
"""Called with the number of answers so far and the number of all requests."""

FATAL_ERRORS = (AuthenticationError, NotFoundError, QuotaError, TrainingNotAvailableError)
"""Errors that the next request would meet as well."""

MAX_DELAY_SECONDS = 30.0
"""The longest wait between two attempts of a request."""


def ignore_progress(_done: int, _total: int) -> None:
    """A progress callback that does nothing."""


class _RequestCancelled(Exception):
    """A request was not sent, because another one had failed for good."""


class RateLimiter:
    """Spreads requests evenly over time.

    Args:
        per_minute: Requests per minute; ``None`` for no limit.
        sleep: Waits for seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        per_minute: float | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._sleep = sleep
        self._clock = clock
        self._next_start = float("-inf")
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Wait until the next request can start."""
        if not self._interval:
            return
        with self._lock:
            now = self._clock()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
        if start > now:
            self._sleep(start - now)


class RequestRunner:
    """Sends requests to an endpoint, and returns cached answers without sending.

    Args:
        chat: The endpoint.
        cache: Answers of earlier requests.
        concurrency: Maximum number of concurrent requests.
        rate_limiter: Delays the start of requests.
        max_attempts: Attempts per request, the first included.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        chat: ChatClient,
        cache: ResponseCache,
        *,
        concurrency: int = 4,
        rate_limiter: RateLimiter | None = None,
        max_attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.chat = chat
        self.cache = cache
        self.concurrency = max(1, concurrency)
        self.rate_limiter = rate_limiter or RateLimiter(None)
        self.max_attempts = max(1, max_attempts)
        self._sleep = sleep
        self._stop = threading.Event()

    def run(self, requests: Sequence[Request], *, on_progress: Progress = ignore_progress) -> dict[str, Answer]:
        """Answer every request; equal requests are sent once, cached ones not at all.

        Returns:
            Answer by ``Request.key``.

        Raises:
            FtpipeError: The endpoint cannot be used, or a request failed in all attempts; earlier answers are cached.
            InterruptedRunError: Ctrl-C; the answers so far are cached.
        """
        unique = {request.key: request for request in requests}
        answers = {
            key: answer.model_copy(update={"from_cache": True})
            for key in unique
            if (answer := self.cache.get(key)) is not None
        }
        missing = [request for key, request in unique.items() if key not in answers]
        on_progress(len(answers), len(unique))
        try:
            answers |= self._send_all(missing, len(answers), len(unique), on_progress)
        except KeyboardInterrupt as exc:
            raise InterruptedRunError(
                f"interrupted; {self._cached_answers()}", "run the same command again to continue"
            ) from exc
        return answers

    def _cached_answers(self) -> str:
        return f"{self.cache.size:,} answers are cached"

    def _send_all(self, requests: Sequence[Request], done: int, total: int, on_progress: Progress) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        self._stop.clear()
        with ThreadPoolExecutor(max_workers=self.concurrency, thread_name_prefix="chat-request") as pool:
            pending = {pool.submit(self._send_or_stop, request): request for request in requests}
            try:
                while pending:
                    finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        request = pending.pop(future)
                        if not isinstance(future.exception(), _RequestCancelled):
                            answers[request.key] = self._result(future)
                    on_progress(done + len(answers), total)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return answers

    def _result(self, future: Future[Answer]) -> Answer:
        """The answer, or the error with a hint on how to continue."""
        try:
            return future.result()
        except FtpipeError as exc:
            how = f"{self._cached_answers()}; run the same command again to continue"
            raise type(exc)(exc.message, f"{exc.hint} ({how})" if exc.hint else how) from exc

    def _send_or_stop(self, request: Request) -> Answer:
        """Send a request; if it fails for good, no other one is started."""
        try:
            return self._send(request)
        except BaseException:
            self._stop.set()
            raise

    def _send(self, request: Request) -> Answer:
        """Send a request, again after transient errors; if the endpoint refuses this very item, that is the answer."""
        try:
            answer = retry(
                lambda: self._send_once(request),
                retry_on=_is_retryable,
                attempts=self.max_attempts,
                first_wait=0.5,
                max_wait=MAX_DELAY_SECONDS,
                jitter=0.5,
                sleep=self._sleep,
            )
        except RequestRefusedError as exc:
            return Answer(error=exc.message)
        self.cache.put(request.key, answer)
        return answer

    def _send_once(self, request: Request) -> Answer:
        if not self._stop.is_set():
            self.rate_limiter.acquire()
        if self._stop.is_set():
            raise _RequestCancelled
        return self.chat.chat(
            request.model,
            request.messages,
            temperature=request.sampling.temperature,
            max_tokens=request.sampling.max_tokens,
            seed=request.seed,
            tools=request.tools or None,
        )


def _is_retryable(exc: BaseException) -> bool:
    """Whether the same request may succeed later. A chat changes nothing, so an unknown outcome is retried as well."""
    if isinstance(exc, (*FATAL_ERRORS, RequestRefusedError)):
        return False
    return isinstance(exc, (ProviderError, OutcomeUnknownError))
