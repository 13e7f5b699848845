"""The ports that stages see: files, jobs and models of an endpoint; and the one place where safe calls are retried."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tenacity

from ftpipe.errors import ConnectionFailedError, FtpipeError, ProviderError, RateLimitError
from ftpipe.providers.profiles import Profile
from ftpipe.records import Checkpoint, Event, Job, JobRequest, Record
from ftpipe.records.row_losses import RowLosses

T = TypeVar("T")

SAFE_ATTEMPTS = 6
"""How often a call that changes nothing is tried."""
WAIT_CAP_SECONDS = 120.0
"""The longest that ftpipe waits because an endpoint said so."""


class RemoteFile(Record):
    """A file as its endpoint describes it."""

    id: str
    bytes: int
    filename: str
    purpose: str
    status: str
    """``uploaded``, ``processed``, ``error``, or another word; empty where the endpoint gives none."""
    status_details: str = ""
    created_at: int = 0


class RemoteUpload(Record):
    """An upload in parts as its endpoint describes it."""

    id: str
    status: str
    bytes: int
    expires_at: int
    """UTC Unix seconds after which parts are refused."""
    file: RemoteFile | None = None


class TrainingAvailability(Record):
    """Whether an endpoint would take a job, as far as that can be heard without making one."""

    allowed: bool | None
    """``None`` where it is not known."""
    why: str
    """What was heard, or why it is not known."""


class ChatCompletion(Record):
    """One chat completion."""

    text: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    """Wall-clock seconds from request to the complete answer."""


class FilesPort(Protocol):
    """``/files`` and ``/uploads``."""

    def upload(self, path: Path, *, filename: str, on_bytes: Callable[[int], None]) -> RemoteFile:
        """Send a whole file; ``on_bytes`` hears how many bytes have left so far."""
        ...

    def find(self, *, filename: str, size: int) -> list[RemoteFile]:
        """Files of that name and size in bytes, oldest first."""
        ...

    def get(self, file_id: str) -> RemoteFile:
        """Look at one file."""
        ...

    def content(self, file_id: str) -> bytes:
        """Read a whole file."""
        ...

    def delete(self, file_id: str) -> None:
        """Remove a file."""
        ...

    def start_upload(self, *, filename: str, size: int) -> RemoteUpload:
        """Begin an upload in parts."""
        ...

    def add_part(self, upload_id: str, data: bytes) -> str:
        """Send one part; returns its id."""
        ...

    def complete_upload(self, upload_id: str, part_ids: Iterable[str], *, md5: str) -> RemoteUpload:
        """Put the parts together in the order given."""
        ...

    def cancel_upload(self, upload_id: str) -> None:
        """Drop an upload in parts."""
        ...


class JobsApi(Protocol):
    """``/fine_tuning/jobs``."""

    def create(self, request: JobRequest, *, key: str) -> Job:
        """Create a job: one POST, never repeated here. ``key`` goes into the metadata and the Idempotency-Key header.

        Raises:
            OutcomeUnknownError: The job may exist.
            ProviderError: The job surely does not exist.
        """
        ...

    def check_can_create(self, model: str) -> TrainingAvailability:
        """Whether jobs are taken, heard without making one."""
        ...

    def recent(self, *, metadata: Mapping[str, str] | None = None, since: int = 0) -> Iterator[Job]:
        """Jobs, newest first, down to ``since`` (UTC Unix seconds); the endpoint may ignore ``metadata``."""
        ...

    def get(self, job_id: str) -> Job:
        """Look at one job."""
        ...

    def cancel(self, job_id: str) -> Job:
        """Stop a job for good."""
        ...

    def pause(self, job_id: str) -> Job:
        """Stop a job for a while."""
        ...

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on."""
        ...

    def events(self, job_id: str, *, known: Iterable[str] = ()) -> list[Event]:
        """Events that are not in ``known`` (ids), oldest first."""
        ...

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Checkpoints by step."""
        ...


class ModelsPort(Protocol):
    """``/models`` and ``/chat/completions``."""

    def names(self) -> list[str]:
        """The models that the key can use."""
        ...

    def shutdown_date(self, model: str) -> str | None:
        """Day on which a model ends, ISO 8601; ``None`` where the endpoint does not say."""
        ...

    def chat(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> ChatCompletion:
        """One answer."""
        ...

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        """One answer, piece by piece."""
        ...

    def losses(self, path: Path, models: Sequence[str], *, on_rows: Callable[[int, int], None]) -> list[RowLosses]:
        """Loss of every row of a chat file under each of some models of one base; only ftpipe's endpoint tells it.

        ``on_rows`` hears the rows that are done and all that there are to do.

        Raises:
            RequestRefusedError: The endpoint does not tell it, or the file or the models will not do.
        """
        ...


class Provider(Protocol):
    """An endpoint, ready to be called."""

    @property
    def profile(self) -> Profile:
        """What is different about it."""
        ...

    @property
    def endpoint(self) -> str:
        """Fingerprint that ids are valid for: base URL, organization and project, never the key."""
        ...

    @property
    def files(self) -> FilesPort:
        """``/files`` and ``/uploads``."""
        ...

    @property
    def jobs(self) -> JobsApi:
        """``/fine_tuning/jobs``."""
        ...

    @property
    def models(self) -> ModelsPort:
        """``/models`` and ``/chat/completions``."""
        ...

    def on_retry(self, on_trouble: Callable[[str], None]) -> None:
        """Who is told that a call has failed and is tried again, once for each time of trouble."""
        ...

    def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        ...


def is_transient(exc: BaseException) -> bool:
    """Whether the same safe call may succeed later: not for a refusal, an empty account or a day's limit."""
    if isinstance(exc, ConnectionFailedError):
        return True
    if isinstance(exc, RateLimitError):
        wait = retry_after_of(exc)
        return wait is None or wait <= WAIT_CAP_SECONDS
    return type(exc) is ProviderError


def retry_after_of(exc: BaseException) -> float | None:
    """Seconds that the endpoint asked to wait; ``None`` where it did not."""
    value = getattr(exc, "retry_after", None)
    return value if isinstance(value, float) else None


def retry_idempotent(
    call: Callable[[], T],
    *,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = SAFE_ATTEMPTS,
    on_trouble: Callable[[BaseException], None] = lambda _exc: None,
) -> T:
    """Call something that changes nothing, again after passing faults, with jittered growing waits.

    Never for a call that creates or pays. The last error is raised as it came; ``on_trouble`` hears those before it.
    """
    jitter = tenacity.wait_exponential_jitter(multiplier=0.5, max=20, jitter=1)

    def wait(state: tenacity.RetryCallState) -> float:
        asked = retry_after_of(state.outcome.exception()) if state.outcome and state.outcome.failed else None  # type: ignore[arg-type]  # failed has one
        return max(asked or 0.0, jitter(state))

    def tell(state: tenacity.RetryCallState) -> None:
        if state.outcome and (failure := state.outcome.exception()):
            on_trouble(failure)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_after_attempt(attempts),
        wait=wait,
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )(call)


class DeadlineExceededError(FtpipeError):
    """A call took longer than its wall-clock limit; whether it was executed is not known."""


def with_deadline(seconds: float, call: Callable[[], T]) -> T:
    """Run ``call`` in a thread and give up after ``seconds`` of wall-clock time.

    A client's own timeouts are per read, so an endpoint that sends a byte now and then would hold ftpipe for ever.

    Raises:
        DeadlineExceededError: The time is up; the call goes on in its daemon thread and its answer is dropped.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the caller's thread
            failure.append(exc)

    thread = threading.Thread(target=work, daemon=True, name="ftpipe-call")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise DeadlineExceededError(f"no complete answer within {seconds:.0f} seconds")
    if failure:
        raise failure[0]
    return outcome[0]
