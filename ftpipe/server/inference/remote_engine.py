"""The engine in a process of its own: started at the first load, and again after it has crashed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from ftpipe.errors import FtpipeError
from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import GenerationRequest
from ftpipe.server.cancellation import RequestCancelledError
from ftpipe.server.inference.crash_history import CrashHistory
from ftpipe.server.inference.engine_process import EngineProcess, UnfinishedWork
from ftpipe.server.inference.messages import Command, Generation, encode_command

log = logging.getLogger("ftpipe.server")

MAX_AHEAD = {"interactive": 32, "batch": 1}
"""Pieces of an answer that are computed for a client that does not read them, by the request's priority.

A mirrored chat waits in ``check_cancelled`` while callers are answered, so its next piece is sent when it is wanted.
"""


class RemoteEngine:
    """Generates answers in a process of its own, which torch and the models are in.

    If the process crashes, what it was computing fails, and the next request starts a new one.

    Args:
        command: Starts the process; the number of a file descriptor is added.
        needs_download: Whether the process may have to download a base model, for which it gets the settings of pip.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        needs_download: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._needs_download = needs_download
        self._crashes = CrashHistory(clock)
        self._lock = threading.Lock()
        self._process: EngineProcess | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Id of the process; ``None`` if none runs."""
        with self._lock:
            return None if self._process is None or self._process.has_ended else self._process.pid

    def load(self, base: str) -> Future[Any]:
        """Load a base model; the future is done at once if it is in memory."""
        try:
            self._crashes.check_request(partial(_load_key, base))
            return self._running_process().load(base)
        except FtpipeError as exc:
            future: Future[Any] = Future()
            future.set_exception(exc)
            return future

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """Answer a request; closing the iterator stops the generation.

        Raises:
            FtpipeError: What the engine raised; ``InferenceEndedError`` if its process has ended.
            RepeatedCrashError: The process crashed too often.
        """
        check_cancelled()
        generation = Generation(base=base, adapter=adapter, request=request, max_ahead=MAX_AHEAD[request.priority])
        self._crashes.check_request(partial(_load_key, base))
        self._crashes.check_request(partial(_generation_key, generation))
        yield from self._running_process().generate(generation, check_cancelled)
        self._crashes.forget_request(partial(_generation_key, generation))

    def close(self) -> None:
        """End the process; what it computes fails, and no other one is started."""
        with self._lock:
            self._is_closed = True
            process = self._process
        if process is not None:
            process.close()

    def _running_process(self) -> EngineProcess:
        with self._lock:
            if self._is_closed:
                message = "the server is stopping"
                raise RequestCancelledError(message)
            if self._process is None or self._process.has_ended:
                self._crashes.check_start()
                self._process = EngineProcess(self._command, self._on_end, downloads=self._needs_download())
                log.info("started the inference process, pid %d", self._process.pid)
            return self._process

    def _on_end(self, unfinished: UnfinishedWork) -> None:
        if self._is_closed:
            return
        answers = len(unfinished.generations)
        log.error("the inference process %s; %d answers were being computed", unfinished.reason, answers)
        self._crashes.add([*map(_generation_key, unfinished.generations), *map(_load_key, unfinished.loads)])


def _generation_key(generation: Generation) -> bytes:
    return encode_command(Command(id=0, generate=generation))


def _load_key(base: str) -> bytes:
    return encode_command(Command(id=0, load=base))
