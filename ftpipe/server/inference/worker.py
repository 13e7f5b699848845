"""The inference process: runs the engine for the server, until the connection to the server closes.

Usage: ``python -m ftpipe.server.inference.worker OPTIONS DESCRIPTOR``, which only the server calls.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from ftpipe.errors import FtpipeError
from ftpipe.inference.batch_model import Precision
from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.engine import Engine
from ftpipe.inference.request import GenerationRequest
from ftpipe.modeling.device import use_passive_omp_wait
from ftpipe.process_priority import switch_threads_often
from ftpipe.server.inference.messages import Command, ErrorInfo, Event, Generation, decode_command, encode_events
from ftpipe.server.memory import (
    RELEASE_SECONDS,
    exclude_from_garbage_collection,
    limit_malloc_arenas,
    release_memory,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the engine is built.

    Attributes:
        models_dir: Folder of base models.
        max_loaded_models: Base models in memory at the same time.
        max_num_seqs: Answers of a base model that are computed in one batch.
        precision: In which answers are computed; ``None`` for what suits the processor.
    """

    models_dir: Path
    max_loaded_models: int
    max_num_seqs: int
    precision: Precision | None = None

    def as_json(self) -> str:
        """The first argument of the process."""
        return _OPTIONS.dump_json(self).decode()


_OPTIONS = TypeAdapter(EngineOptions)
MAX_THREADS = 10_000
"""Far more than the answers that the server requests at the same time: no answer waits for a thread. Threads are used
again, because to start one takes a third of the time for an answer whose client leaves at once."""


class LoadedEngine(Protocol):
    """What generates text; ``Engine``, or a fake of it."""

    def load(self, base: str) -> Future[Any]:
        """Load a base model in the background."""

    def loaded_models(self) -> tuple[str, ...]:
        """Base models in memory."""

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """The answer in pieces."""


BuildEngine = Callable[[Callable[[str], None], Callable[[], None]], LoadedEngine]
"""Builds the engine from what it calls with a line of status, and what it calls after a model was loaded."""


class _CancelledError(FtpipeError):
    """The server does not need the answer any more."""


class _RunningAnswer:
    """An answer that is being computed."""

    def __init__(self, max_ahead: int) -> None:
        self._is_cancelled = False
        self._may_compute = threading.Semaphore(max_ahead)

    def cancel(self) -> None:
        """End it before its next piece."""
        self._is_cancelled = True
        self._may_compute.release()

    def add_taken(self, count: int) -> None:
        """Let more pieces be computed."""
        self._may_compute.release(count)

    def check_cancelled(self) -> None:
        """Raise an error if it was cancelled."""
        if self._is_cancelled:
            message = "the answer was cancelled"
            raise _CancelledError(message)

    def wait_until_taken(self) -> None:
        """Wait until the next piece may be computed."""
        self._may_compute.acquire()
        self.check_cancelled()


class Worker:
    """Executes the server's commands.

    Args:
        connection: To the server.
        build_engine: Builds the engine.
    """

    def __init__(self, connection: Connection, build_engine: BuildEngine) -> None:
        self._connection = connection
        self._answers: dict[int, _RunningAnswer] = {}
        self._events: list[Event] = []
        self._has_events = threading.Condition()
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="answer")
        self._engine = build_engine(lambda line: self._send(Event(status=line)), self._on_loaded)

    def run(self) -> None:
        """Execute commands until the server closes the connection; this thread does nothing that takes time."""
        threading.Thread(target=self._write, name="write-events", daemon=True).start()
        with suppress(EOFError, OSError):
            while True:
                self._execute(decode_command(self._connection.recv_bytes()))

    def _execute(self, command: Command) -> None:
        if command.load is not None:
            self._engine.load(command.load).add_done_callback(partial(self._on_load_done, command.id))
        elif command.generate is not None:
            answer = self._answers[command.id] = _RunningAnswer(command.generate.max_ahead)
            self._threads.submit(self._generate, command.id, command.generate, answer)
        elif (running := self._answers.get(command.id)) is not None:
            if command.cancel:
                running.cancel()
            elif command.taken:
                running.add_taken(command.taken)

    def _on_loaded(self) -> None:
        exclude_from_garbage_collection()
        self._send(Event(loaded=self._engine.loaded_models()))

    def _on_load_done(self, id_: int, future: Future[Any]) -> None:
        exc = future.exception()
        self._send(Event(id=id_, is_last=True, error=None if exc is None else ErrorInfo.of(exc)))

    def _generate(self, id_: int, generation: Generation, answer: _RunningAnswer) -> None:
        error = None
        try:
            pieces = self._engine.generate(
                base=generation.base,
                adapter=generation.adapter,
                request=generation.request,
                check_cancelled=answer.check_cancelled,
            )
            with closing(pieces):  # type: ignore[type-var]  # a generator, which has close()
                answer.wait_until_taken()
                for piece in pieces:
                    self._send(Event(id=id_, delta=piece))
                    answer.wait_until_taken()
        except _CancelledError:
            pass
        except BaseException as exc:  # noqa: BLE001  # the server raises it again; a panic in Rust is no Exception
            error = ErrorInfo.of(exc)
        del self._answers[id_]
        self._send(Event(id=id_, is_last=True, error=error))

    def _send(self, event: Event) -> None:
        with self._has_events:
            self._events.append(event)
            self._has_events.notify()

    def _write(self) -> None:
        """Send what there is in one message: the tokens of a step of many answers, for example."""
        try:
            while True:
                with self._has_events:
                    self._has_events.wait_for(lambda: self._events)
                    events, self._events = self._events, []
                self._connection.send_bytes(encode_events(events))
        except OSError:
            end_process()  # the server is gone
        except Exception:  # noqa: BLE001  # without this thread the server would wait forever
            traceback.print_exc()
            end_process()


def end_process() -> None:
    """End this process at once, with whatever it has started; nothing of it is kept."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _release_memory_regularly() -> None:
    while True:
        time.sleep(RELEASE_SECONDS)
        release_memory()


def run(descriptor: int, build_engine: BuildEngine) -> None:
    """Run the engine until the server closes the connection, then end the process.

    Args:
        descriptor: File descriptor of the connection.
        build_engine: Builds the engine.
    """
    limit_malloc_arenas()
    switch_threads_often()
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_release_memory_regularly, name="release-memory", daemon=True).start()
    try:
        Worker(Connection(descriptor), build_engine).run()
    except Exception:  # noqa: BLE001  # the process ends, whatever it is
        traceback.print_exc()
    finally:
        end_process()


def main(options: str, descriptor: str) -> None:
    """Run the real engine."""
    use_passive_omp_wait()  # a trainer may run on the same processors
    settings = _OPTIONS.validate_json(options)

    def build(on_status: Callable[[str], None], on_loaded: Callable[[], None]) -> Engine:
        return Engine(
            models_dir=settings.models_dir,
            max_loaded_models=settings.max_loaded_models,
            max_num_seqs=settings.max_num_seqs,
            precision=settings.precision,
            on_status=on_status,
            on_loaded=on_loaded,
        )

    run(int(descriptor), build)


if __name__ == "__main__":
    main(*sys.argv[1:])
