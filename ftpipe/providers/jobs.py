"""``/fine_tuning/jobs`` of an endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import openai

from ftpipe.errors import (
    AuthenticationError,
    FtpipeError,
    NotFoundError,
    RequestRefusedError,
    TrainingNotAvailableError,
)
from ftpipe.providers.client import ApiClient
from ftpipe.providers.responses import TrainingAvailability, checkpoint_of, event_of, job_of
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobRequest

KEY_NAME = "ftpipe_key"
"""Metadata key that carries the journal's key."""
PROBE_FILE = "file-ftpipe-asks-and-has-no-such-file"
"""A training file that exists nowhere, since endpoints give the ids: a job on it can neither train nor cost."""
OF_FILE = re.compile(rf"{PROBE_FILE}|training_file|\bfile\b", re.IGNORECASE)
"""What a refusal says that has come as far as looking for the file."""
LIST_MOST = 2000
"""How far back a list is read."""


class JobsClient:
    """The jobs of an endpoint."""

    def __init__(self, api: ApiClient, *, endpoint: str) -> None:
        self._api = api
        self._endpoint = endpoint

    def create(self, request: JobRequest, *, key: str) -> Job:
        """Create a job: one POST. ``key`` goes into the metadata and the Idempotency-Key header."""
        body = self.body(request, key=key)
        job = self._api.write(
            "create the job",
            lambda client: client.fine_tuning.jobs.create(**body, extra_headers={"Idempotency-Key": key}),
            self._job,
            paid=True,
        )
        return job.model_copy(
            update={"requested": request.hyperparameters, "method": request.method, "suffix": request.suffix}
        )

    def check_can_create(self, model: str) -> TrainingAvailability:
        """Whether jobs are taken: asks for one on a file that does not exist, where the profile allows that.

        It is only asked at the profile's own address: what stands elsewhere under its name may not look at the file.

        Raises:
            TrainingNotAvailableError: This organization may not create jobs.
            AuthenticationError: The key was refused, or may not create jobs.
        """
        profile = self._api.profile
        if not profile.probe_training or self._api.base_url.rstrip("/") != profile.base_url.rstrip("/"):
            return TrainingAvailability(allowed=None, why="it is only told when a job is created")
        try:
            job = self._api.call_once(
                "ask whether jobs are taken",
                lambda client: client.fine_tuning.jobs.create(model=model, training_file=PROBE_FILE),
                self._job,
            )
        except (TrainingNotAvailableError, AuthenticationError):
            raise
        except (RequestRefusedError, NotFoundError) as exc:
            return TrainingAvailability(allowed=True if OF_FILE.search(exc.message) else None, why=exc.message)
        except FtpipeError as exc:
            return TrainingAvailability(allowed=None, why=exc.message)
        self.cancel(job.id)
        return TrainingAvailability(
            allowed=None, why=f"it takes jobs on files that do not exist ({job.id}, cancelled at once)"
        )

    def body(self, request: JobRequest, *, key: str) -> dict[str, Any]:
        """The create call's arguments, in the shape that the endpoint's profile asks for; unset stays unset."""
        profile = self._api.profile
        body: dict[str, Any] = {"model": request.model, "training_file": request.training_file.id}
        if request.validation_file:
            body["validation_file"] = request.validation_file.id
        hyperparameters = _given(request.hyperparameters)
        if profile.hyperparameters_at == "top":
            if hyperparameters:
                body["hyperparameters"] = hyperparameters
        else:
            block = {"hyperparameters": hyperparameters} if hyperparameters else {}
            body["method"] = {"type": request.method.value, request.method.value: block}
        if request.suffix is not None:
            body["suffix"] = request.suffix
        if request.seed is not None:
            body["seed"] = request.seed
        if request.integrations:
            body["integrations"] = list(request.integrations)
        if profile.metadata_stored:
            body["metadata"] = {**request.metadata, KEY_NAME: key}
        return body

    def recent(self, *, metadata: Mapping[str, str] | None = None, since: int = 0) -> Iterator[Job]:
        """Jobs, newest first, down to ``since``; unfiltered where the endpoint's profile says it cannot filter."""
        wanted = dict(metadata or {}) if self._api.profile.metadata_filter else {}

        def call(client: openai.OpenAI) -> list[Job]:
            page = (
                client.fine_tuning.jobs.list(limit=100, metadata=wanted)
                if wanted
                else client.fine_tuning.jobs.list(limit=100)
            )
            found: list[Job] = []
            first: int | None = None
            for item in islice(page, LIST_MOST):
                job = self._job(item)
                first = job.created_at if first is None else first
                if job.created_at >= since:
                    found.append(job)
                elif first > job.created_at:
                    break  # the list does run backwards in time, which not every host's does
            return found

        return iter(self._api.read("list the jobs", call, list))

    def get(self, job_id: str) -> Job:
        """Look at one job."""
        return self._api.read(
            f"look at job {job_id}", lambda client: client.fine_tuning.jobs.retrieve(job_id), self._job
        )

    def cancel(self, job_id: str) -> Job:
        """Stop a job for good."""
        return self._api.call_once(
            f"cancel job {job_id}", lambda client: client.fine_tuning.jobs.cancel(job_id), self._job
        )

    def pause(self, job_id: str) -> Job:
        """Stop a job for a while."""
        return self._api.call_once(
            f"pause job {job_id}", lambda client: client.fine_tuning.jobs.pause(job_id), self._job
        )

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on."""
        return self._api.call_once(
            f"resume job {job_id}", lambda client: client.fine_tuning.jobs.resume(job_id), self._job
        )

    def events(self, job_id: str, *, known: Iterable[str] = ()) -> list[Event]:
        """Events that are not in ``known``, oldest first.

        Endpoints list newest first or oldest first, so the order of the answer is only used to break ties of time.
        """
        seen = frozenset(known)

        def call(client: openai.OpenAI) -> list[Event]:
            found: list[Event] = []
            for item in client.fine_tuning.jobs.list_events(job_id, limit=100):
                event = event_of(item)
                if event.id in seen and _newest_first(found, event):
                    break
                found.append(event)
            return found

        found = self._api.read(f"read the events of job {job_id}", call, list)
        fresh = {event.id: event for event in found if event.id not in seen}
        ordered = list(fresh.values())
        if ordered and ordered[0].created_at >= ordered[-1].created_at:
            ordered.reverse()
        return sorted(ordered, key=lambda event: event.created_at)

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Checkpoints by step."""
        found = self._api.read(
            f"read the checkpoints of job {job_id}",
            lambda client: [
                checkpoint_of(item) for item in client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)
            ],
            list,
        )
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def _job(self, answer: object) -> Job:
        return job_of(answer, endpoint=self._endpoint, provider=self._api.profile.name)


def _newest_first(found: list[Event], event: Event) -> bool:
    """Whether the list runs backwards in time, so that everything behind a known event is known too."""
    return bool(found) and found[0].created_at >= event.created_at


def _given(hyperparameters: Hyperparameters) -> dict[str, Any]:
    named = hyperparameters.model_dump(exclude={"extra"}, exclude_none=True)
    return {**{name: value for name, value in named.items() if value != "auto"}, **hyperparameters.extra}
