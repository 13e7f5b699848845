"""Asks many things at once: within a rate limit, retried where that is safe, remembered one by one."""

from __future__ import annotations

import random
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
from ftpipe.records.evaluation import Answer

Progress = Callable[[int, int], None]

FATAL_ERRORS = (AuthenticationError, NotFoundError, QuotaError, TrainingNotAvailableError)
"""Errors that would meet the next request as well."""

MAX_DELAY_SECONDS = 30.0
"""Seconds between two tries at most."""


def ignore_progress(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


class _RequestCancelled(Exception):  # never seen outside; says what happened, not that it is a fault
    """A request that was not sent, because another had failed for good."""


class RateLimiter:
    """Hands out moments at which requests may start.

    Args:
        per_minute: Requests a minute; ``None`` for no limit.
        sleep: Waits for seconds.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        per_minute: float | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._sleep = sleep
        self._clock = clock
        self._next = float("-inf")
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Wait until it is this request's turn."""
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)


class RequestRunner:
    """Asks an endpoint, with memory, pace and patience.

    Args:
        chat: The endpoint.
        cache: What was answered before.
        concurrency: Requests under way at once.
        rate_limiter: When they may start.
        max_attempts: Tries of one request, the first counted.
        sleep: Waits between tries.
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
        self._jitter = random.Random()  # noqa: S311  # spreads retries, keeps no secret

    def run(self, requests: Sequence[Request], *, on_progress: Progress = ignore_progress) -> dict[str, Answer]:
        """Ask everything that is not known yet; equal requests are asked once.

        Returns:
            Answer by ``Request.key``.

        Raises:
            FtpipeError: The endpoint cannot be used, or a request failed after all tries; what was answered is kept.
            InterruptedRunError: Ctrl-C; what was answered is kept.
        """
        wanted = {request.key: request for request in requests}
        known = {
            key: answer.model_copy(update={"from_cache": True})
            for key in wanted
            if (answer := self.cache.get(key)) is not None
        }
        missing = [request for key, request in wanted.items() if key not in known]
        on_progress(len(known), len(wanted))
        try:
            known |= self._ask_missing(missing, len(known), len(wanted), on_progress)
        except KeyboardInterrupt as exc:
            raise InterruptedRunError(f"stopped; {self._kept()}", "run the same command again to go on") from exc
        return known

    def _kept(self) -> str:
        return f"{self.cache.size:,} answers are kept"

    def _ask_missing(
        self, missing: Sequence[Request], done: int, total: int, on_progress: Progress
    ) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        self._stop.clear()
        with ThreadPoolExecutor(max_workers=self.concurrency, thread_name_prefix="ask") as pool:
            waiting = {pool.submit(self._ask_or_stop, request): request for request in missing}
            try:
                while waiting:
                    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        request = waiting.pop(future)
                        if not isinstance(future.exception(), _RequestCancelled):
                            answers[request.key] = self._result(future)
                    on_progress(done + len(answers), total)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return answers

    def _result(self, future: Future[Answer]) -> Answer:
        """The answer, or the error with the way to go on."""
        try:
            return future.result()
        except FtpipeError as exc:
            again = f"{self._kept()}; run the same command again to go on"
            raise type(exc)(exc.message, f"{exc.hint} ({again})" if exc.hint else again) from exc

    def _ask_or_stop(self, request: Request) -> Answer:
        """Ask one thing; where that fails for good, nobody starts another."""
        try:
            return self._ask(request)
        except BaseException:
            self._stop.set()
            raise

    def _ask(self, request: Request) -> Answer:
        """Ask one thing, again after passing faults; a refusal of this very item is an answer too."""
        attempt = 0
        while True:
            attempt += 1
            if not self._stop.is_set():
                self.rate_limiter.acquire()
            if self._stop.is_set():
                raise _RequestCancelled
            try:
                answer = self._once(request)
            except FATAL_ERRORS:
                raise
            except RequestRefusedError as exc:
                return Answer(error=exc.message)
            except (ProviderError, OutcomeUnknownError):
                if attempt >= self.max_attempts:
                    raise
                self._sleep(min(MAX_DELAY_SECONDS, 2.0**attempt * self._jitter.uniform(0.25, 0.5)))
            else:
                self.cache.put(request.key, answer)
                return answer

    def _once(self, request: Request) -> Answer:
        return self.chat.chat(
            request.model,
            request.messages,
            temperature=request.sampling.temperature,
            max_tokens=request.sampling.max_tokens,
            seed=request.seed,
            tools=request.tools or None,
        )
