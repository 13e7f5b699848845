"""Answer the requests of batches in threads, at lowest priority, through any crash of the server.

Each answer is stored by itself as soon as it is computed. A server that starts again computes only what has no answer.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import fsync, rename_durably
from ftpipe.errors import FtpipeError
from ftpipe.server.batches.answer_lines import answer_line, answer_request, error_line
from ftpipe.server.batches.input_file import InputLine, find_lines, read_request, validate_input
from ftpipe.server.cancellation import ActiveRequests, CancelToken, RequestCancelledError
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.storage import BatchAnswerRow, BatchRow, FileRow, Store
from ftpipe.server.storage.batches import answer_ids
from ftpipe.server.storage.cleanup import delete_after_commit
from ftpipe.server.storage.data_dir import DataDirectory, new_body_path

log = logging.getLogger("ftpipe.server.batches")

MAX_CONCURRENT_REQUESTS = 16
"""Requests of all batches that are answered at the same time."""
POLL_SECONDS = 1.0
"""How often open batches are looked at, for example whether their time is over."""
ERROR_BACKOFF_SECONDS = 5.0
"""How long a batch or request is left alone after an error of the storage."""
MAX_STARTS_WITHOUT_ANSWER = 10
"""After so many starts of the server in a row without an answer the requests that are left get an error."""
OUTPUT_PURPOSE = "batch_output"
INPUT_IS_GONE = {"code": "input_file_gone", "message": "The input file is gone.", "line": None, "param": None}


@dataclass(eq=False, slots=True)
class OpenBatch:
    """A batch whose requests are answered; the runner's lock protects it."""

    row: BatchRow
    path: Path
    pending: deque[InputLine]
    starts: int
    """How often a server began with it since its last answer, this time included."""
    in_flight: dict[int, CancelToken] = field(default_factory=dict)
    """Line → token of its request."""
    is_stopped: bool = False
    """True if no more requests are answered, because it is cancelled or its time is over."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is computed, and nothing is left that will be."""
        return not self.in_flight and (self.is_stopped or not self.pending)


class BatchRunner:
    """Carries batches from their validation to their end.

    Args:
        store: The server's database.
        data_dir: The server's folder.
        handlers: Endpoint → what answers a request of it.
        has_model: Whether an owner can use a model.
        max_line_bytes: Maximum size of a request.
        active: Cancels requests when the server stops.
    """

    def __init__(
        self,
        store: Store,
        data_dir: DataDirectory,
        handlers: Mapping[str, Callable[[ApiRequest], Any]],
        has_model: Callable[[str, str], bool],
        max_line_bytes: int,
        active: ActiveRequests,
    ) -> None:
        self.endpoints = tuple(handlers)
        self._store = store
        self._data_dir = data_dir
        self._handlers = handlers
        self._has_model = has_model
        self._max_line_bytes = max_line_bytes
        self._active = active
        self._condition = threading.Condition()
        self._batches: dict[str, OpenBatch] = {}
        self._backoff_until: dict[str, float] = {}
        self._wake_event = threading.Event()
        self._stop_token = CancelToken()
        self._stop_event = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start to look for batches; threads for requests are started with the first batch."""
        self._start_thread("batches", self._run)

    def wake(self) -> None:
        """Look at the batches now."""
        self._wake_event.set()

    def stop(self) -> None:
        """End the threads; the requests must have been cancelled, and are answered after the next start."""
        with self._condition:
            self._stop_token.cancel()
            self._stop_event.set()
            self._wake_event.set()
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # Batches.

    def _run(self) -> None:
        while not self._stop_event.is_set():
            self._wake_event.clear()
            has_open_batches = self._poll()
            self._wake_event.wait(POLL_SECONDS if has_open_batches else None)

    def _poll(self) -> bool:
        """Move every open batch one step on; true if there is one."""
        try:
            with self._store.read() as tx:
                rows = tx.batches.open()
        except FtpipeError as exc:
            log.error("the batches cannot be read: %s", exc)
            return True
        for row in rows:
            if time.monotonic() < self._backoff_until.get(row.id, 0.0):
                continue
            try:
                self._advance(row)
            except RequestCancelledError:
                return True
            except (FtpipeError, OSError) as exc:
                self._backoff_until[row.id] = time.monotonic() + ERROR_BACKOFF_SECONDS
                log.error("batch %s: error, trying again: %s", row.id, exc)
        return bool(rows)

    def _advance(self, row: BatchRow) -> None:
        if row.status in ("validating", "in_progress") and not self._data_dir.batch(row.id).is_file():
            self._end(row, "failed", errors=[INPUT_IS_GONE])
        elif row.status == "validating":
            self._validate(row)
        elif row.status == "in_progress":
            self._continue(row)
        elif row.status == "finalizing":
            self._end(row, "completed")
        elif row.status == "cancelling":
            batch = self._batches.get(row.id)
            if batch is None or self._stop_requests(batch):
                self._end(row, "cancelled")

    def _validate(self, row: BatchRow) -> None:
        report = validate_input(
            self._data_dir.batch(row.id),
            row.endpoint,
            max_line_bytes=self._max_line_bytes,
            has_model=lambda name: self._has_model(row.owner, name),
            check_cancelled=self._stop_token.raise_if_cancelled,
        )
        with self._store.write() as tx:
            if report.errors:
                if tx.batches.change_status(row, "failed", errors=report.errors, ended_at=now()):
                    delete_after_commit(tx, self._data_dir, self._data_dir.batch(row.id))
                return
            tx.batches.change_status(row, "in_progress", total=report.total, model=report.model, in_progress_at=now())
        self.wake()

    def _continue(self, row: BatchRow) -> None:
        batch = self._batches.get(row.id) or self._open(row)
        if now() >= row.expires_at:
            if self._stop_requests(batch):
                message = "This request could not be executed before the completion window expired."
                self._fail_rest(batch, "batch_expired", message)
                self._end(row, "expired")
        elif batch.starts > MAX_STARTS_WITHOUT_ANSWER:
            if self._stop_requests(batch):
                message = f"The server ended {MAX_STARTS_WITHOUT_ANSWER} times before it had an answer."
                self._fail_rest(batch, "server_error", message)
                self._finalize(row)
        elif batch.is_idle:
            self._finalize(row)

    def _finalize(self, row: BatchRow) -> None:
        with self._store.write() as tx:
            tx.batches.change_status(row, "finalizing", finalizing_at=now())
        self.wake()

    def _open(self, row: BatchRow) -> OpenBatch:
        """Begin to answer the requests that have no answer; the start counts if it has effect."""
        path = self._data_dir.batch(row.id)
        with self._store.write() as tx:
            tx.batches.update(row.id, starts=row.starts + 1)
            answered = tx.batches.answered_lines(row.id)
        lines = find_lines(path, max_line_bytes=self._max_line_bytes)
        pending = deque(line for line in lines if line.number not in answered)
        batch = OpenBatch(row, path, pending, row.starts + 1)
        batch.is_stopped = batch.starts > MAX_STARTS_WITHOUT_ANSWER
        with self._condition:
            self._batches[row.id] = batch
            self._condition.notify_all()
        while len(self._threads) <= MAX_CONCURRENT_REQUESTS:
            self._start_thread("batch request", self._answer_requests)
        return batch

    def _stop_requests(self, batch: OpenBatch) -> bool:
        """Answer no more requests of a batch; true if none is being answered."""
        with self._condition:
            batch.is_stopped = True
            tokens = list(batch.in_flight.values())
        for token in tokens:
            token.cancel()
        return not tokens

    def _fail_rest(self, batch: OpenBatch, code: str, message: str) -> None:
        """Store an error for each request without an answer."""
        with self._store.write() as tx:
            answered = tx.batches.answered_lines(batch.row.id)
            for line in batch.pending:
                if line.number not in answered:
                    request = read_request(batch.path, line, batch.row.endpoint)
                    content = error_line(request.custom_id, code, message)
                    tx.batches.add_answer(BatchAnswerRow(batch.row.id, line.number, is_error=True, content=content))

    def _end(self, row: BatchRow, status: str, **values: Any) -> None:
        """Write the files, and forget the answers in the transaction that makes the files known."""
        files = [self._write_file(row, is_error=is_error) for is_error in (False, True)]
        with self._store.write() as tx:
            output, error = (None if file is None else file.id for file in files)
            values |= {"ended_at": now(), "output_file": output, "error_file": error}
            if not tx.batches.change_status(row, status, **values):
                return
            for file in files:
                if file is not None:
                    tx.files.add(file)
            tx.batches.delete_answers(row.id)
            delete_after_commit(tx, self._data_dir, self._data_dir.batch(row.id))
        with self._condition:
            self._batches.pop(row.id, None)

    def _write_file(self, row: BatchRow, *, is_error: bool) -> FileRow | None:
        """Write the output or error file; ``None`` if it would be empty."""
        temporary, sha256, size = new_body_path(self._data_dir.incoming), hashlib.sha256(), 0
        try:
            with temporary.open("xb") as file, self._store.read() as tx:
                for content in tx.batches.answers(row.id, is_error=is_error):
                    raw = content.encode() + b"\n"
                    file.write(raw)
                    sha256.update(raw)
                    size += len(raw)
            if not size:
                return None
            fsync(temporary)
            file_id = answer_ids(row.id)[is_error]
            rename_durably(temporary, self._data_dir.file(file_id))
        finally:
            temporary.unlink(missing_ok=True)
        created = now()
        expires_at = None if row.output_expires_after is None else created + row.output_expires_after
        name = f"{row.id}_{'error' if is_error else 'output'}.jsonl"
        return FileRow(file_id, row.owner, name, OUTPUT_PURPOSE, size, sha256.hexdigest(), created, expires_at)

    # Requests.

    def _answer_requests(self) -> None:
        """Answer requests until the server stops."""
        while (task := self._next()) is not None:
            batch, line, token = task
            is_stored = False
            try:
                with self._active.working_thread():
                    self._answer(batch, line, token)
                is_stored = True
            except RequestCancelledError:
                log.debug("request in line %d of %s was cancelled", line.number, batch.row.id)
            except (FtpipeError, OSError) as exc:
                log.error("an answer of %s could not be stored, it is computed again: %s", batch.row.id, exc)
                self._stop_event.wait(ERROR_BACKOFF_SECONDS)
            finally:
                with self._condition:
                    del batch.in_flight[line.number]
                    if not is_stored:
                        batch.pending.append(line)
                    is_idle = batch.is_idle
                    self._condition.notify_all()
                if is_idle:
                    self.wake()

    def _next(self) -> tuple[OpenBatch, InputLine, CancelToken] | None:
        """The next request, of the owner with the fewest that are being answered; ``None`` when the server stops."""
        with self._condition:
            while not self._stop_event.is_set():
                running = Counter({batch.row.owner: 0 for batch in self._batches.values()})
                for batch in self._batches.values():
                    running[batch.row.owner] += len(batch.in_flight)
                open_batches = [one for one in self._batches.values() if one.pending and not one.is_stopped]
                if open_batches:
                    batch = min(open_batches, key=lambda one: running[one.row.owner])
                    line, token = batch.pending.popleft(), self._active.new_token()
                    batch.in_flight[line.number] = token
                    return batch, line, token
                self._condition.wait()
            return None

    def _answer(self, batch: OpenBatch, line: InputLine, token: CancelToken) -> None:
        """Compute one answer, and store it.

        Raises:
            RequestCancelledError: The batch was cancelled, its time is over, or the server is stopping.
            LocalStateError: The answer could not be stored.
        """
        row = batch.row
        request = read_request(batch.path, line, row.endpoint)
        api_request = ApiRequest(row.owner, body=request.body, cancel_token=token, priority="batch")
        answer = answer_request(self._handlers[row.endpoint], api_request, self._stop_event)
        is_error = answer.status != HTTPStatus.OK
        content = answer_line(request.custom_id, answer)
        with self._store.write() as tx:
            tx.batches.add_answer(
                BatchAnswerRow(row.id, line.number, is_error=is_error, content=content),
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
            )
