"""Asks a model for answers through the Batch API: each batch is created once, and its answers are collected once.

::

    entry in the index ──> file uploaded ──> intent in the journal ──> batch created ──> answers collected

After a kill the open entries of the index are finished first, so that no request of theirs is sent in another way.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import write_bytes
from ftpipe.canonical_json import canonical_json
from ftpipe.errors import (
    FtpipeError,
    InvalidResponseError,
    LocalStateError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    RequestRefusedError,
    ResponseLostError,
    StillRunningError,
)
from ftpipe.evaluation.response_cache import Request, ResponseCache
from ftpipe.migration.answers import RequestParameters, answer_of
from ftpipe.migration.spending import Ledger, Rate
from ftpipe.providers.batches import CHAT_URL, ENDED, MAX_FILE_BYTES, MAX_REQUESTS, BatchesClient
from ftpipe.providers.profiles import Profile
from ftpipe.providers.responses import RemoteBatch, completion_of
from ftpipe.providers.retry import is_transient, poll_until
from ftpipe.records.base import Record
from ftpipe.records.evaluation import Answer
from ftpipe.records.idempotency_keys import versioned_digest
from ftpipe.registry.journal import Journal, OperationState

KIND = "create_batch"
MAX_POSTS = 3
"""How many POSTs create one batch at most; each but the first follows a search that found nothing."""
MAX_SEARCHES = 3
"""How often the list of batches is searched before a call counts as not executed."""
MAX_BATCHES_WITHOUT_ANSWER = 3
"""After so many batches in a row without a single answer the endpoint is given up."""
MAX_PAUSE_SECONDS = 300.0
"""The longest wait between two looks at a batch."""


class BatchEntry(Record):
    """One batch in the index of a model's batches."""

    key: str
    """The batch's key in the journal and in its metadata."""
    requests: tuple[str, ...]
    """Keys of its requests."""
    is_done: bool = False
    """Whether its answers were collected, or it ended without any."""


class BatchIndex:
    """The batches of a model, in a file to which lines are appended.

    Args:
        path: The file; created with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, BatchEntry] = {}
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        for line in data.splitlines():
            try:
                entry = BatchEntry.model_validate_json(line)
            except ValueError:
                continue  # a line that a kill cut off: its batch was not created yet
            self.entries[entry.key] = entry
        self._prefix = b"" if not data or data.endswith(b"\n") else b"\n"

    @property
    def open_entries(self) -> list[BatchEntry]:
        """The batches whose answers were not collected."""
        return [entry for entry in self.entries.values() if not entry.is_done]

    def attempts(self, requests: Sequence[str]) -> int:
        """How many batches had exactly these requests."""
        return sum(entry.requests == tuple(requests) for entry in self.entries.values())

    def save(self, entry: BatchEntry) -> None:
        """Append an entry, or its new state."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.open("ab") as file:
                file.write(self._prefix + entry.model_dump_json().encode() + b"\n")
        except OSError as exc:
            raise LocalStateError(
                f"{self.path} cannot be written: {exc.strerror}", "free space on the disk, then continue"
            ) from exc
        self._prefix = b""
        self.entries[entry.key] = entry


@dataclass
class BatchAnswers:
    """Gets the answers to requests in batches, into the cache."""

    batches: BatchesClient
    profile: Profile
    endpoint: str
    cache: ResponseCache
    journal: Journal
    index: BatchIndex
    ledger: Ledger
    rate: Rate
    parameters: RequestParameters
    highest_costs: Mapping[str, float]
    """Request key → what it costs if the answer is as long as it can be, through the Batch API."""
    refused: dict[str, Answer] = field(default_factory=dict)
    """Request key → why the endpoint refused it; is filled."""
    timeout: float | None = None
    """Seconds to wait for all batches; ``None`` for no limit."""
    on_status: Callable[[str], None] = lambda _text: None
    on_progress: Callable[[int, int], None] = lambda _done, _total: None
    on_batch: Callable[[], None] = lambda: None
    """Called when the answers of a batch are in the cache."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _deadline: float = field(default=math.inf, init=False)

    def run(self, requests: Sequence[Request]) -> None:
        """Get the answers that the cache does not have.

        Raises:
            CostLimitError: The next batch could exceed the limit.
            StillRunningError: The time is up; the batch goes on at the endpoint.
            OutcomeUnknownError: A batch may have been created, and the endpoint's list cannot be read.
            ProviderError: The endpoint failed.
        """
        self._deadline = math.inf if self.timeout is None else self.clock() + self.timeout
        for entry in self.index.open_entries:
            self._finish(entry, requests)
        unanswered = 0
        while pending := [one for one in requests if not self._is_answered(one.key)]:
            entry = self._new_entry(pending)
            self._finish(entry, requests)
            is_fruitless = not any(map(self._is_answered, entry.requests))
            unanswered = unanswered + 1 if is_fruitless else 0
            if unanswered == MAX_BATCHES_WITHOUT_ANSWER:
                raise ProviderError(
                    f"{MAX_BATCHES_WITHOUT_ANSWER} batches in a row ended without an answer",
                    "--no-batch sends the requests one by one",
                )

    def _is_answered(self, key: str) -> bool:
        return key in self.refused or self.cache.get(key) is not None

    def _new_entry(self, pending: Sequence[Request]) -> BatchEntry:
        """Write the file of requests, as many as fit the limits, then the entry."""
        lines: list[bytes] = []
        keys: list[str] = []
        size = cost = 0.0
        for request in pending[:MAX_REQUESTS]:
            line = _request_line(request, self.parameters.body(request))
            highest = self.highest_costs.get(request.key, 0.0)
            if size + len(line) > MAX_FILE_BYTES or not self.ledger.fits(cost + highest):
                break
            size, cost = size + len(line), cost + highest
            lines.append(line)
            keys.append(request.key)
        if not keys:
            raise self.ledger.limit_error()
        key = versioned_digest(
            "batch/1", {"endpoint": self.endpoint, "requests": keys, "attempt": self.index.attempts(keys)}
        )
        entry = BatchEntry(key=key, requests=tuple(keys))
        path = self._file_of(entry)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, b"".join(lines), mode=0o600)
        self.index.save(entry)
        return entry

    def _file_of(self, entry: BatchEntry) -> Path:
        return self.index.path.with_name(f"ftpipe-batch-{entry.key.rpartition(':')[2][:16]}.jsonl")

    def _finish(self, entry: BatchEntry, requests: Sequence[Request]) -> None:
        """Create or find the batch, wait for its end, and collect its answers."""
        answered = sum(self._is_answered(request.key) for request in requests)
        batch = self._create_once(entry)
        self.on_status(f"{batch.id} has {len(entry.requests):,} requests; Ctrl-C stops only the waiting")
        ended = self._wait(batch, answered, len(requests))
        collected = self._collect(entry, ended)
        answers = {key: answer for key, answer in collected.items() if not answer.error}
        refused = {key: answer for key, answer in collected.items() if answer.error}
        self.cache.put_all(answers)
        if entry.key in self.ledger.open_keys:
            costs = (self.rate.cost_of(one, self.highest_costs.get(key, 0.0)) for key, one in answers.items())
            self.ledger.settle(entry.key, sum(costs))
        self.index.save(entry.model_copy(update={"is_done": True}))
        self._file_of(entry).unlink(missing_ok=True)
        if refused and not answers:
            raise RequestRefusedError(
                f"the endpoint refused every request of {batch.id}: {next(iter(refused.values())).error}",
                "check the model and the prompts; nothing was paid",
            )
        self.refused |= refused
        self.on_batch()
        if ended.status == "failed":
            why = "; ".join(ended.errors[:3]) or "it gives no reason"
            raise ProviderError(
                f"the endpoint refused {batch.id}: {why}", "--no-batch sends the requests one by one; nothing was paid"
            )
        if ended.status == "cancelled":
            raise ProviderError(
                f"{batch.id} was cancelled at the endpoint; {len(answers):,} answers were ready and are recorded",
                "the same command sends the other requests again, with --no-batch one by one",
            )

    # Creating a batch exactly once.

    def _create_once(self, entry: BatchEntry) -> RemoteBatch:
        known = self.journal.find(entry.key)
        if known is not None and known.state == OperationState.CONFIRMED and known.remote_id:
            return self.batches.get(known.remote_id)
        is_open = known is not None and known.state in (OperationState.INTENDED, OperationState.UNKNOWN)
        batch = self._search(entry, patiently=is_open)
        for attempt in range(MAX_POSTS):
            if batch is not None:
                break
            batch = self._post(entry, is_last=attempt == MAX_POSTS - 1)
        if batch is None:
            raise ProviderError(
                f"the batch could not be created in {MAX_POSTS} attempts",
                "the endpoint's list was searched each time and does not have it; try again later",
            )
        operation = self.journal.find(entry.key)
        if operation is None or operation.state == OperationState.REJECTED:
            self._record_intent(entry)
        if entry.key not in self.ledger.open_keys:
            self.ledger.reserve(entry.key, self._highest(entry), is_sent=True)
        self.journal.confirm(entry.key, batch.id)
        return batch

    def _post(self, entry: BatchEntry, *, is_last: bool) -> RemoteBatch | None:
        """Upload the file if it is not there, and make one POST; ``None`` if it was certainly not executed."""
        file_id = self._upload_once(entry)
        self.ledger.reserve(entry.key, self._highest(entry))
        self._record_intent(entry)
        try:
            return self.batches.create(file_id, key=entry.key)
        except OutcomeUnknownError as exc:
            self.journal.mark_unknown(entry.key, exc.message)
            self.on_status(f"{exc.message}; searching the endpoint for the batch before anything is sent again")
            batch = self._search(entry, patiently=True)
            if batch is None and is_last:
                self.ledger.settle(entry.key, 0.0)
            return batch
        except FtpipeError as exc:
            self.journal.reject(entry.key, exc.message)
            self.ledger.settle(entry.key, 0.0)
            raise

    def _highest(self, entry: BatchEntry) -> float:
        return sum(self.highest_costs.get(key, 0.0) for key in entry.requests)

    def _record_intent(self, entry: BatchEntry) -> None:
        self.journal.record_intent(
            key=entry.key,
            run_id=f"recording-{self.index.path.parent.name}",
            kind=KIND,
            endpoint=self.endpoint,
            request_digest=versioned_digest("batch-requests/1", list(entry.requests)),
            estimated_cost=self._highest(entry),
        )

    def _search(self, entry: BatchEntry, *, patiently: bool) -> RemoteBatch | None:
        """The batch with this key; searched again until the endpoint's list must show it if a call may be on its way.

        Raises:
            OutcomeUnknownError: The batch may exist, and the list cannot be read.
        """
        pause = self.profile.list_lag_seconds / MAX_SEARCHES
        for search in range(1 + MAX_SEARCHES * patiently):
            if search:
                self.sleep(pause)
            try:
                listed = self.batches.with_key(entry.key)
            except ProviderError as exc:
                if not patiently:
                    raise
                raise OutcomeUnknownError(
                    f"the batch may have been created, and the endpoint's list cannot be read: {exc.message}",
                    "run the same command again when the endpoint can be reached; nothing is sent again before that",
                ) from exc
            if listed:
                for other in listed[1:]:
                    self.on_status(f"{other.id} is a second batch of the same requests and is paid, too: cancel it")
                return listed[0]
        if patiently:
            self.journal.reject(entry.key, "not in the endpoint's list")
        return None

    def _upload_once(self, entry: BatchEntry) -> str:
        """The id of the uploaded file; one of the same name and size is used again, because the name has the key."""
        path = self._file_of(entry)
        if not path.is_file():
            raise LocalStateError(
                f"{path} is missing, which has the requests of a batch that was not created yet",
                f"remove {self.index.path} to start with a new batch",
            )
        size = path.stat().st_size
        if (file := self.batches.find_file(filename=path.name, size=size)) is not None:
            return file.id
        try:
            return self.batches.upload(path, filename=path.name).id
        except ResponseLostError:
            if (file := self.batches.find_file(filename=path.name, size=size)) is not None:
                return file.id
        try:
            return self.batches.upload(path, filename=path.name).id
        except ResponseLostError as exc:
            raise ResponseLostError(exc.message, "run the same command again") from exc

    # Waiting and collecting.

    def _wait(self, batch: RemoteBatch, answered: int, total: int) -> RemoteBatch:
        latest = batch

        def look() -> RemoteBatch:
            nonlocal latest
            latest = self.batches.get(batch.id)
            self.on_progress(min(total, answered + latest.completed), total)
            return latest

        ended = poll_until(
            look,
            is_done=lambda one: one.status in ENDED,
            retry_on=is_transient,
            seconds_left=lambda: self._deadline - self.clock(),
            first_wait=self.profile.poll_first_seconds,
            max_wait=self.profile.poll_max_seconds,
            max_pause=MAX_PAUSE_SECONDS,
            sleep=self.sleep,
        )
        if ended is None:
            raise StillRunningError(
                f"{batch.id} is {latest.status}: {latest.completed:,} of {latest.total:,} requests are answered",
                "it continues at the endpoint, for 24 hours at most; the same command collects the answers",
            )
        return ended

    def _collect(self, entry: BatchEntry, batch: RemoteBatch) -> dict[str, Answer]:
        """Request key → answer, refusals among them; requests that the batch did not get to are missing."""
        keys = {_custom_id(key): key for key in entry.requests}
        answers: dict[str, Answer] = {}
        for file_id in (batch.output_file, batch.error_file):
            if file_id is None:
                continue
            try:
                content = self.batches.content(file_id)
            except NotFoundError:
                self.on_status(f"a file of {batch.id} is not at the endpoint any more: its requests are sent again")
                continue
            for line in _objects(content):
                key = keys.get(str(line.get("custom_id")))
                answer = self._answer(line) if key is not None else None
                if key is not None and answer is not None:
                    answers.setdefault(key, answer)
        return answers

    def _answer(self, line: Mapping[str, Any]) -> Answer | None:
        """The answer in a line of a result file; ``None`` if the request should be sent again.

        An error of a single request stands in the body of its response. Source: openai/openai-openapi#302, 2024-08-02.
        """
        response = line.get("response")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            try:
                return answer_of(completion_of(body))
            except InvalidResponseError:
                return None
        error = body.get("error") if isinstance(body, dict) else None
        message = str(error.get("message", "")) if isinstance(error, dict) else ""
        is_refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 429)
        if not is_refused or self.parameters.adapt(message):
            return None
        return Answer(error=message[:500] or f"HTTP {status}")


def _custom_id(key: str) -> str:
    """A request's id in a batch: its digest without the version."""
    return key.rpartition(":")[2]


def _request_line(request: Request, body: Mapping[str, Any]) -> bytes:
    line = {"custom_id": _custom_id(request.key), "method": "POST", "url": CHAT_URL, "body": body}
    return canonical_json(line) + b"\n"


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file's lines; other lines are left out."""
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value
