"""One inference process as the server sees it: start it, send commands, hand on its events, notice its end."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from ftpipe.errors import FtpipeError, LocalStateError
from ftpipe.inference.detokenizer import Delta
from ftpipe.server.inference.messages import Command, Event, Generation, decode_events, encode_command
from ftpipe.server.jobs.trainer_process import count_oom_kills, signal_name, trainer_environment

log = logging.getLogger("ftpipe.server")

CANCEL_POLL_SECONDS = 0.05
"""How often a thread that waits for a piece of an answer looks whether its request was cancelled."""


class InferenceEndedError(FtpipeError):
    """The inference process ended before the answer was complete."""

    code = "inference_ended"


@dataclass(frozen=True, slots=True, eq=False)
class _RunningAnswer:
    """An answer that the process computes; what it has sent is bounded by ``Generation.max_ahead``."""

    generation: Generation
    events: queue.SimpleQueue[Event | Exception] = field(default_factory=queue.SimpleQueue)


@dataclass(frozen=True, slots=True)
class UnfinishedWork:
    """What a process was doing when it ended."""

    reason: str
    """For example ``was ended by SIGKILL``."""
    generations: tuple[Generation, ...]
    loads: tuple[str, ...]


class EngineProcess:
    """A process that runs the engine.

    It is in a session of its own, so that Ctrl-C reaches only the server, which then ends it. It ends by itself when
    the connection closes, which the system does when the server dies.

    Args:
        command: Starts it; the number of the connection's file descriptor is added.
        on_end: Called in a thread when it has ended, before those who wait for it get an error.
        downloads: Whether it gets the settings of pip.

    Raises:
        LocalStateError: It cannot be started.
    """

    def __init__(self, command: tuple[str, ...], on_end: Callable[[UnfinishedWork], None], *, downloads: bool) -> None:
        self._oom_kills_before = count_oom_kills()
        self._connection, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # warnings and tracebacks go to stderr, which is the server's
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=trainer_environment(downloads=downloads),
            )
        except OSError as exc:
            self._connection.close()
            raise LocalStateError(f"the inference process cannot be started: {exc}") from exc
        finally:
            theirs.close()
        self._on_end = on_end
        self._send_lock = threading.Lock()
        self._reap_lock = threading.Lock()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._answers: dict[int, _RunningAnswer] = {}
        self._loads: dict[int, str] = {}
        self._futures: dict[str, Future[None]] = {}
        self._loaded: tuple[str, ...] = ()
        self._end_reason: str | None = None
        self._reader = threading.Thread(target=self._read, name="read-engine-events", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """True once nothing can be sent to it any more."""
        return self._end_reason is not None

    def load(self, base: str) -> Future[None]:
        """Load a base model; the future is done at once if it is in memory, and cannot be cancelled."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._end_reason is not None:
                future.set_exception(_ended(self._end_reason))
                return future
            if base in self._loaded:
                future.set_result(None)
                return future
            if base in self._futures:
                return self._futures[base]
            id_ = next(self._ids)
            self._loads[id_], self._futures[base] = base, future
        with suppress(OSError):  # the reader notices the end, and then the future fails
            self._send(Command(id=id_, load=base))
        return future

    def generate(self, generation: Generation, check_cancelled: Callable[[], None]) -> Iterator[Delta]:
        """Answer a request; closing the iterator, or an error of ``check_cancelled``, ends the work.

        Raises:
            InferenceEndedError: The process has ended.
            FtpipeError: What the engine raised.
        """
        id_, answer = next(self._ids), _RunningAnswer(generation)
        with self._lock:
            if self._end_reason is not None:
                raise _ended(self._end_reason)
            self._answers[id_] = answer
        try:
            self._send_unless_ended(Command(id=id_, generate=generation))
            taken = 0
            while True:
                check_cancelled()
                if taken * 2 >= generation.max_ahead:
                    self._send_unless_ended(Command(id=id_, taken=taken))
                    taken = 0
                event = _next_event(answer, check_cancelled)
                if event.error is not None:
                    raise event.error.exception()
                if event.is_last:
                    return
                if event.delta is not None:
                    taken += 1
                    yield event.delta
        finally:
            with self._lock:
                is_unfinished = self._answers.pop(id_, None) is not None
            if is_unfinished:
                self._send_unless_ended(Command(id=id_, cancel=True))

    def close(self) -> None:
        """End the process with whatever it has started, and wait until it is gone; it has no state to save."""
        with self._reap_lock:
            self._kill()
        self._reader.join()

    def _send_unless_ended(self, command: Command) -> None:
        """Send a command; if the process has ended, the reader says so to those who wait."""
        with suppress(OSError):
            self._send(command)

    def _send(self, command: Command) -> None:
        message = encode_command(command)
        with self._send_lock:
            self._connection.send_bytes(message)

    def _read(self) -> None:
        try:
            while True:
                for event in decode_events(self._connection.recv_bytes()):
                    self._handle(event)
        except (EOFError, OSError):
            pass
        except Exception:
            log.exception("a message of the inference process cannot be used")
        finally:
            self._end()

    def _handle(self, event: Event) -> None:
        if event.status:
            log.info("%s", event.status)
        with self._lock:
            if event.loaded is not None:
                self._loaded = event.loaded
            answer = self._answers.pop(event.id, None) if event.is_last else self._answers.get(event.id)
            base = self._loads.pop(event.id, None) if event.is_last else None
            future = None if base is None else self._futures.pop(base)
        if answer is not None:
            answer.events.put(event)
        if future is not None:
            if event.error is None:
                future.set_result(None)
            else:
                future.set_exception(event.error.exception())

    def _end(self) -> None:
        """Reap the process, and fail what it has not finished."""
        with self._reap_lock:
            self._kill()
            code = self._process.wait()
        reason = _describe_end(code, self._oom_kills_before)
        with self._lock:
            self._end_reason = reason
            answers, futures = list(self._answers.values()), list(self._futures.values())
            loads = tuple(self._loads.values())
        try:
            self._on_end(UnfinishedWork(reason, tuple(answer.generation for answer in answers), loads))
        finally:  # those who wait get their error, whatever happens
            for answer in answers:
                answer.events.put(_ended(reason))
            for future in futures:
                future.set_exception(_ended(reason))
        with self._send_lock:  # no thread may write to a descriptor that has been closed, and perhaps used again
            self._connection.close()

    def _kill(self) -> None:
        """Kill it and what it has started; the group is its own as long as it is not reaped."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _next_event(answer: _RunningAnswer, check_cancelled: Callable[[], None]) -> Event:
    while True:
        try:
            event = answer.events.get(timeout=CANCEL_POLL_SECONDS)
        except queue.Empty:
            check_cancelled()
            continue
        if isinstance(event, Exception):
            raise event
        return event


def _ended(reason: str) -> InferenceEndedError:
    return InferenceEndedError(f"the inference process {reason}", "try again; the next request starts a new one")


def _describe_end(code: int, oom_kills_before: int | None) -> str:
    if code == -signal.SIGKILL and oom_kills_before is not None and (count_oom_kills() or 0) > oom_kills_before:
        return "was ended by the system, because the memory had run out"
    if code < 0:
        return f"was ended by {signal_name(-code)}"
    return f"ended with exit code {code}"
