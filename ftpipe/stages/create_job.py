"""Create a fine-tuning job exactly once: the endpoint is searched before a call with an unknown outcome is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ftpipe.errors import ConnectionFailedError, FtpipeError, OutcomeUnknownError, ProviderError
from ftpipe.providers.provider import Provider
from ftpipe.records import Job, JobRequest
from ftpipe.records.idempotency_keys import attempt_key, request_digest
from ftpipe.registry.journal import Journal, Operation, OperationState

KIND = "create_job"
MAX_CLOCK_SKEW_SECONDS = 600.0
"""How far the endpoint's clock may be from ours when jobs are matched by time."""
MAX_SEARCHES = 3
"""How often a list is searched before a call counts as not executed."""
MAX_POSTS = 3
"""How many POSTs one ``run`` makes at most; each but the first follows a search that found nothing."""
ENDED_WITHOUT_MODEL = frozenset({"failed", "cancelled"})


@dataclass
class CreateJob:
    """Creates a job, or finds the job that was created with the same key before.

    The journal has the intent on the disk before the call, and its outcome afterwards. If the outcome is unknown, the
    endpoint's lists are searched for the job; a second POST follows only if they must show it and do not.
    """

    request: JobRequest
    key: str
    """Idempotency key: the same data and parameters have the same key."""
    run_id: str
    """The run that needs the job, for the journal."""
    provider: Provider
    journal: Journal
    estimated_cost: float | None = None
    """For the journal, in the currency of the estimate."""
    on_status: Callable[[str], None] = lambda _text: None
    """Is called with what the user should know, for example that an existing job is used."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    """UTC Unix seconds."""

    def run(self) -> Job:
        """Create or find the job.

        Raises:
            OutcomeUnknownError: The call may have been executed, and the endpoint's list cannot be read.
            ProviderError: The job surely does not exist.
        """
        known = self.journal.find(self.key)
        if known is not None and known.state == OperationState.CONFIRMED and known.remote_id:
            return self._with_request(self.provider.jobs.get(known.remote_id))
        job: Job | None = None
        if known is not None and known.state in (OperationState.INTENDED, OperationState.UNKNOWN):
            job = self._reconcile(known, elapsed=self.clock() - (known.sent_at or 0.0))
        else:
            job = self._find_by_key()
            if job is not None:
                self._record_intent()
        if job is None:
            job = self._post(listed_before=() if known else self._list_similar_jobs())
        self.journal.confirm(self.key, job.id)
        return self._with_request(job)

    def _record_intent(self, listed_before: tuple[str, ...] = ()) -> Operation:
        return self.journal.record_intent(
            key=self.key,
            run_id=self.run_id,
            kind=KIND,
            endpoint=self.provider.endpoint,
            request_digest=request_digest(self.request),
            estimated_cost=self.estimated_cost,
            listed_before=listed_before,
        )

    def _list_similar_jobs(self) -> tuple[str, ...]:
        """Jobs that exist before the call and look like the new one, at hosts whose jobs do not carry the key.

        At hosts whose job ids are made of the key, they are those of the key that ended without a model: their ids are
        used up.
        """
        if self.provider.profile.chooses_job_ids:
            jobs = self.provider.jobs.find_by_key(self.key)
            return tuple(job.id for job in jobs if job.status in ENDED_WITHOUT_MODEL)
        if self.provider.profile.metadata_stored:
            return ()
        since = int(self.clock() - 2 * MAX_CLOCK_SKEW_SECONDS)
        return tuple(job.id for job in self.provider.jobs.recent(since=since) if self._is_similar(job))

    def _post(self, listed_before: tuple[str, ...]) -> Job:
        """Intent, call, outcome; again only if a search says that the last call was not executed."""
        for attempt in range(MAX_POSTS):
            operation = self._record_intent(listed_before)
            try:
                return self.provider.jobs.create(self.request, key=self._job_key(operation))
            except OutcomeUnknownError as exc:
                self.journal.mark_unknown(self.key, exc.message)
                self.on_status(f"{exc.message}; searching the endpoint for the job before anything is sent again")
                job = self._reconcile(operation, elapsed=0.0)
                if job is not None:
                    return job
                last: FtpipeError = exc
            except ConnectionFailedError as exc:
                self.journal.reject(self.key, exc.message)
                if attempt < MAX_POSTS - 1:
                    self.on_status(f"{exc.message}; nothing was sent, trying again …")
                last = exc
            except FtpipeError as exc:
                self.journal.reject(self.key, exc.message)
                raise
            if attempt < MAX_POSTS - 1:
                self.sleep(min(2.0 * 2**attempt, 20.0))
        if isinstance(last, OutcomeUnknownError):
            raise ProviderError(
                f"the job could not be created in {MAX_POSTS} attempts: {last.message}",
                "the endpoint's list was searched each time and does not have the job; "
                "try again later with `ftpipe resume`",
            ) from last
        raise last

    def _job_key(self, operation: Operation) -> str:
        """The key that the job carries; another one if ids are made of it, and those of earlier jobs are used up."""
        if not self.provider.profile.chooses_job_ids:
            return self.key
        return attempt_key(self.key, len(operation.listed_before) + 1)

    def _reconcile(self, operation: Operation, *, elapsed: float) -> Job | None:
        """Search the endpoint for the job of an operation until its lists must show it; ``None`` if it is not there.

        ``elapsed`` is how many seconds ago the call was sent, as far as that is known.

        Raises:
            OutcomeUnknownError: The list cannot be read, so nothing may be sent again.
        """
        lag = self.provider.profile.list_lag_seconds
        # counted down by the pauses: a clock that jumps must not end the search early, or make it last for hours
        left = lag - min(max(elapsed, 0.0), lag)
        for search in range(MAX_SEARCHES + 1):
            try:
                jobs = self._matching_jobs(operation)
            except ProviderError as exc:
                self.journal.mark_unknown(operation.key, exc.message)
                raise OutcomeUnknownError(
                    f"the job may have been created, and the endpoint's list cannot be read: {exc.message}",
                    "run `ftpipe resume` when the endpoint can be reached; nothing is sent again before that",
                ) from exc
            if jobs:
                return self._oldest(jobs)
            if left <= 0:
                break
            pause = min(left, lag / MAX_SEARCHES) if search < MAX_SEARCHES - 1 else left
            self.sleep(pause)
            left -= pause
        self.journal.reject(operation.key, "not in the endpoint's list")
        return None

    def _matching_jobs(self, operation: Operation) -> list[Job]:
        """Jobs created with this key if they show it, otherwise those with the same files, model, seed and time."""
        provider = self.provider
        since = int((operation.sent_at or 0.0) - MAX_CLOCK_SKEW_SECONDS)
        jobs = [job for job in provider.jobs.find_by_key(self.key) if job.id not in operation.listed_before]
        if jobs or provider.profile.chooses_job_ids:
            return jobs
        # a key is matched whatever the clocks say: ours may be hours ahead of the endpoint's
        listed = list(provider.jobs.recent(since=since if not provider.profile.metadata_stored else 0))
        if jobs := self._with_key(listed):
            return jobs
        others = self.journal.jobs_of_other_runs(self.provider.endpoint, run_id=operation.run_id)
        others |= set(operation.listed_before)
        return [job for job in listed if job.id not in others and job.created_at >= since and self._is_similar(job)]

    def _find_by_key(self) -> Job | None:
        """A job of the same key that is not in this journal: its database was lost, or a colleague created it."""
        usable = [
            job
            for job in self.provider.jobs.find_by_key(self.key)
            if job.status not in ENDED_WITHOUT_MODEL and _is_same_model(job.model, self.request.model)
        ]
        if not usable:
            return None
        job = self._oldest(usable)
        self.on_status(
            f"{job.id} was created before from the same data with the same parameters; "
            "it is used, and nothing new is paid"
        )
        return job

    def _with_key(self, jobs: Iterable[Job]) -> list[Job]:
        return [job for job in jobs if self.provider.jobs.match_key(job, self.key)]

    def _is_similar(self, job: Job) -> bool:
        """Whether a job that shows no key has the same files, model, name and seed."""
        request = self.request
        return (
            self.provider.jobs.match_key(job, self.key) is None
            and job.training_file == request.training_file.id
            and job.validation_file == (request.validation_file.id if request.validation_file else None)
            and _is_same_model(job.model, request.model)
            and (job.suffix is None or job.suffix == request.suffix)
            and (request.seed is None or job.seed is None or job.seed == request.seed)
        )

    def _oldest(self, jobs: list[Job]) -> Job:
        """The oldest of several; the user hears of the others, since each of them is paid."""
        oldest, *others = sorted(jobs, key=lambda job: (job.created_at, job.id))
        for job in others:
            self.on_status(
                f"{job.id} is a second job for the same request and is paid, too: cancel it with "
                f"`ftpipe jobs cancel {job.id}`"
            )
        return oldest

    def _with_request(self, job: Job) -> Job:
        """The job with what was requested, which its endpoint does not return."""
        return job.model_copy(
            update={
                "requested": self.request.hyperparameters,
                "method": self.request.method,
                "suffix": job.suffix or self.request.suffix,
                "training_file": job.training_file or self.request.training_file.id,
            }
        )


def _is_same_model(name: str, requested: str) -> bool:
    """Hosts spell a base out (``gpt-4o-mini`` → ``gpt-4o-mini-2024-07-18``) or drop its owner's name."""
    left, right = name.rsplit("/", 1)[-1].lower(), requested.rsplit("/", 1)[-1].lower()
    return left.startswith(right) or right.startswith(left) or left.endswith(right) or right.endswith(left)
