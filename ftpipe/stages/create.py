"""Create: from uploaded files to a job, once; after a doubtful answer the endpoint is searched before any new POST."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from ftpipe.errors import ConnectionFailedError, FtpipeError, OutcomeUnknownError, ProviderError
from ftpipe.providers.jobs import KEY_NAME
from ftpipe.providers.provider import Provider
from ftpipe.records import Job, JobRequest
from ftpipe.records.keys import request_digest
from ftpipe.registry.journal import Operation, OperationState
from ftpipe.stages.ports import JournalPort

KIND = "create_job"
SKEW_SECONDS = 600.0
"""How far the endpoint's clock may be from ours when jobs are matched by time."""
MAX_SEARCHES = 3
"""How often a list is searched before a call counts as not executed."""
MAX_POSTS = 3
"""How many POSTs one call to ``create`` makes at most, each but the first after a search that found nothing."""
ENDED_WITHOUT_MODEL = frozenset({"failed", "cancelled"})


def create(
    request: JobRequest,
    *,
    key: str,
    run_id: str,
    provider: Provider,
    journal: JournalPort,
    estimated_cost: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
    on_status: Callable[[str], None] = lambda _text: None,
) -> Job:
    """Create a job, or find the one that this key has made before.

    Args:
        request: What is asked for.
        key: Idempotency key: the same data and parameters have the same key.
        run_id: The run that asks, for the journal.
        provider: The endpoint.
        journal: Where the intent is on the disk before the call.
        estimated_cost: For the journal, in the currency of the estimate.
        sleep: Waits between searches.
        clock: UTC Unix seconds.
        on_status: Hears what a person should know, for example that an older job was adopted.

    Raises:
        OutcomeUnknownError: The call may have been executed and the endpoint's list cannot be read.
        ProviderError: The job surely does not exist.
    """
    known = journal.find(key)
    if known is not None and known.state == OperationState.CONFIRMED and known.remote_id:
        return _with_request(provider.jobs.get(known.remote_id), request)
    intend = partial(_intend, request, key, run_id, provider, journal, estimated_cost)
    found: Job | None = None
    if known is not None and known.state in (OperationState.INTENDED, OperationState.UNKNOWN):
        elapsed = clock() - (known.sent_at or 0.0)
        found = _reconcile(request, known, provider, journal, sleep, elapsed, on_status)
    elif provider.profile.metadata_filter:
        found = _find_by_key(request, key, provider, on_status)
        if found is not None:
            intend()
    before = () if known or found else _listed_before(request, provider, clock())
    if found is None:
        found = _post(request, key, provider, journal, partial(intend, before), sleep, on_status)
    journal.confirm(key, found.id)
    return _with_request(found, request)


def _intend(
    request: JobRequest,
    key: str,
    run_id: str,
    provider: Provider,
    journal: JournalPort,
    cost: float | None,
    before: tuple[str, ...] = (),
) -> Operation:
    return journal.record_intent(
        key=key,
        run_id=run_id,
        kind=KIND,
        endpoint=provider.endpoint,
        request_sha256=request_digest(request),
        estimated_cost=cost,
        listed_before=before,
    )


def _listed_before(request: JobRequest, provider: Provider, now: float) -> tuple[str, ...]:
    """Jobs that look like the one that will be asked for, at a host whose jobs do not say which key made them."""
    if provider.profile.metadata_stored:
        return ()
    since = int(now - 2 * SKEW_SECONDS)
    return tuple(job.id for job in provider.jobs.recent(since=since) if _is_alike(job, request))


def _post(
    request: JobRequest,
    key: str,
    provider: Provider,
    journal: JournalPort,
    intend: Callable[[], Operation],
    sleep: Callable[[float], None],
    on_status: Callable[[str], None],
) -> Job:
    """Intent, call, outcome; again only when a search says that the last call was not executed."""
    for attempt in range(MAX_POSTS):
        operation = intend()
        try:
            return provider.jobs.create(request, key=key)
        except OutcomeUnknownError as exc:
            journal.mark_unknown(key, exc.message)
            on_status(f"{exc.message}; looking for the job at the endpoint before anything is sent again")
            found = _reconcile(request, operation, provider, journal, sleep, 0.0, on_status)
            if found is not None:
                return found
            last: FtpipeError = exc
        except ConnectionFailedError as exc:
            journal.reject(key, exc.message)
            if attempt < MAX_POSTS - 1:
                on_status(f"{exc.message}; nothing was sent, trying again …")
            last = exc
        except FtpipeError as exc:
            journal.reject(key, exc.message)
            raise
        if attempt < MAX_POSTS - 1:
            sleep(min(2.0 * 2**attempt, 20.0))
    if isinstance(last, OutcomeUnknownError):
        raise ProviderError(
            f"the job could not be created in {MAX_POSTS} tries: {last.message}",
            "each time the endpoint's list was searched and has no such job; `ftpipe resume` later tries again",
        ) from last
    raise last


def _reconcile(
    request: JobRequest,
    operation: Operation,
    provider: Provider,
    journal: JournalPort,
    sleep: Callable[[float], None],
    elapsed: float,
    on_status: Callable[[str], None],
) -> Job | None:
    """Search the endpoint for the job of an operation until its lists must show it; ``None`` where it is not there.

    ``elapsed`` is how many seconds ago it was sent, as far as that is known.

    Raises:
        OutcomeUnknownError: The list cannot be read, so nothing may be sent again.
    """
    lag = provider.profile.list_lag_seconds
    # counted down by the pauses: a clock that jumps must not end the search early, or hold it for hours
    left = lag - min(max(elapsed, 0.0), lag)
    for look in range(MAX_SEARCHES + 1):
        try:
            matches = _matches(request, operation, provider, journal)
        except ProviderError as exc:
            journal.mark_unknown(operation.key, exc.message)
            raise OutcomeUnknownError(
                f"a job may have been created, and the endpoint's list cannot be read: {exc.message}",
                "run `ftpipe resume` when it can be reached; nothing is sent again before that",
            ) from exc
        if matches:
            return _oldest(matches, on_status)
        if left <= 0:
            break
        pause = min(left, lag / MAX_SEARCHES) if look < MAX_SEARCHES - 1 else left
        sleep(pause)
        left -= pause
    journal.reject(operation.key, "not in the endpoint's list")
    return None


def _matches(request: JobRequest, operation: Operation, provider: Provider, journal: JournalPort) -> list[Job]:
    """Jobs that this key has made: by metadata where the endpoint keeps it, else by files, model and time."""
    key, since = operation.key, int((operation.sent_at or 0.0) - SKEW_SECONDS)
    by_filter = list(provider.jobs.recent(metadata={KEY_NAME: key})) if provider.profile.metadata_filter else []
    found = [job for job in by_filter if job.metadata.get(KEY_NAME) == key]
    if found:
        return found
    # a key is matched whatever the clocks say: ours may be hours ahead of the endpoint's
    jobs = list(provider.jobs.recent(since=since if not provider.profile.metadata_stored else 0))
    found = [job for job in jobs if job.metadata.get(KEY_NAME) == key]
    if found:
        return found
    others = journal.jobs_of_other_runs(provider.endpoint, run_id=operation.run_id) | set(operation.listed_before)
    return [job for job in jobs if job.id not in others and job.created_at >= since and _is_alike(job, request)]


def _is_alike(job: Job, request: JobRequest) -> bool:
    """Whether a job that names no key is of the same files, model and name."""
    return (
        KEY_NAME not in job.metadata
        and job.training_file == request.training_file.id
        and job.validation_file == (request.validation_file.id if request.validation_file else None)
        and _same_model(job.model, request.model)
        and (job.suffix is None or job.suffix == request.suffix)
    )


def _same_model(found: str, asked: str) -> bool:
    """Hosts spell a base out (``gpt-4o-mini`` → ``gpt-4o-mini-2024-07-18``) or drop its owner's name."""
    left, right = found.rsplit("/", 1)[-1].lower(), asked.rsplit("/", 1)[-1].lower()
    return left.startswith(right) or right.startswith(left) or left.endswith(right) or right.endswith(left)


def _find_by_key(request: JobRequest, key: str, provider: Provider, on_status: Callable[[str], None]) -> Job | None:
    """A job of the same key that this journal does not know: its database was lost, or a colleague ran the same."""
    jobs = [job for job in provider.jobs.recent(metadata={KEY_NAME: key}) if job.metadata.get(KEY_NAME) == key]
    alive = [job for job in jobs if job.status not in ENDED_WITHOUT_MODEL and _same_model(job.model, request.model)]
    if not alive:
        return None
    job = _oldest(alive, on_status)
    on_status(f"{job.id} was created from the same data with the same parameters; it is used, and nothing new is paid")
    return job


def _oldest(jobs: list[Job], on_status: Callable[[str], None]) -> Job:
    """The oldest of several; the rest is named, since each of them is paid."""
    ordered = sorted(jobs, key=lambda job: (job.created_at, job.id))
    for job in ordered[1:]:
        on_status(f"{job.id} is a second job of the same request: `ftpipe jobs cancel {job.id}` stops it")
    return ordered[0]


def _with_request(job: Job, request: JobRequest) -> Job:
    """The job with what was asked, which its endpoint does not tell."""
    return job.model_copy(
        update={
            "asked": request.hyperparameters,
            "method": request.method,
            "suffix": job.suffix or request.suffix,
            "training_file": job.training_file or request.training_file.id,
        }
    )
