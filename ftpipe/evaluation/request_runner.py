"""Send many chat requests concurrently: rate limited, retried if that is safe, and cached one by one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from ftpipe.errors import (
    AuthenticationError,
    FtpipeError,
    InterruptedRunError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    QuotaError,
    RequestRefusedError,
    ResponseTimeoutError,
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


INTERRUPT_SECONDS = 0.5
"""How often the main thread wakes: Ctrl-C that arrives just before a wait is otherwise noticed after it."""


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
        """Send from daemon threads: Ctrl-C leaves the ones that still wait for an answer."""
        answers: dict[str, Answer] = {}
        self._stop.clear()
        outcomes: SimpleQueue[tuple[Request, Answer | BaseException]] = SimpleQueue()
        work = partial(self._work, deque(requests), outcomes)
        threads = [
            threading.Thread(target=work, daemon=True, name="chat-request")
            for _ in range(min(self.concurrency, len(requests)))
        ]
        for thread in threads:
            thread.start()
        try:
            while len(answers) < len(requests):
                try:
                    request, outcome = outcomes.get(timeout=INTERRUPT_SECONDS)
                except Empty:
                    continue
                if isinstance(outcome, BaseException):
                    raise self._with_hint(outcome)
                answers[request.key] = outcome
                on_progress(done + len(answers), total)
        except Exception:
            for thread in threads:  # their answers are cached
                thread.join()
            raise
        finally:
            self._stop.set()
        return answers

    def _work(self, requests: deque[Request], outcomes: SimpleQueue[tuple[Request, Answer | BaseException]]) -> None:
        """Send requests until none is left or one has failed for good."""
        while not self._stop.is_set():
            try:
                request = requests.popleft()
            except IndexError:
                return
            try:
                outcomes.put((request, self._send_or_stop(request)))
            except _RequestCancelled:
                return
            except BaseException as exc:  # noqa: BLE001 - it is raised again in the caller's thread
                outcomes.put((request, exc))

    def _with_hint(self, exc: BaseException) -> BaseException:
        """The error with a hint on how to continue."""
        if not isinstance(exc, FtpipeError):
            return exc
        how = f"{self._cached_answers()}; run the same command again to continue"
        error = type(exc)(exc.message, f"{exc.hint} ({how})" if exc.hint else how)
        error.__cause__ = exc
        return error

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
        self.on_answer(request, answer)
        return answer

    def on_answer(self, request: Request, answer: Answer) -> None:
        """Is called when an answer is in the cache, in the thread that sent its request; subclasses account for it."""

    def _send_once(self, request: Request) -> Answer:
        if not self._stop.is_set():
            self.rate_limiter.acquire()
        if self._stop.is_set():
            raise _RequestCancelled
        return self.send(request)

    def send(self, request: Request) -> Answer:
        """Send one request and wait for its answer; raises only subclasses of ``FtpipeError``."""
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
    if isinstance(exc, (*FATAL_ERRORS, RequestRefusedError, ResponseTimeoutError)):
        return False  # the client has waited for a slow endpoint several times
    return isinstance(exc, (ProviderError, OutcomeUnknownError))
