"""``/fine_tuning/jobs`` of an endpoint with the OpenAI API."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import openai

from ftpipe.errors import (
    AuthenticationError,
    FtpipeError,
    InvalidResponseError,
    NotFoundError,
    RequestRefusedError,
    TrainingNotAvailableError,
)
from ftpipe.providers.client import ApiClient
from ftpipe.providers.responses import JobListing, PriceQuote, TrainingAvailability, checkpoint_of, event_of, job_of
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobRequest, Method

KEY_NAME = "ftpipe_key"
"""Metadata key that carries the journal's key."""
PROBE_FILE = "file-ftpipe-probe-does-not-exist"
"""A training file that cannot exist, since endpoints assign the ids: a job on it can neither train nor cost."""
ABOUT_FILE = re.compile(rf"{PROBE_FILE}|training_file|\bfile\b", re.IGNORECASE)
"""Matches a refusal of an endpoint that had no other objection than the missing file."""
MAX_LISTED_JOBS = 2000
"""How many jobs of a list are read."""


class JobsClient:
    """The jobs of an endpoint."""

    def __init__(self, api: ApiClient, *, endpoint: str) -> None:
        self._api = api
        self._endpoint = endpoint

    def create(self, request: JobRequest, *, key: str) -> Job:
        """Create a job: one POST, never repeated here.

        Args:
            request: What is requested.
            key: Goes into the metadata and the Idempotency-Key header.

        Raises:
            OutcomeUnknownError: The job may exist.
            ProviderError: The job surely does not exist.
        """
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

    def check_can_create(
        self,
        model: str,
        *,
        method: Method | None = None,  # noqa: ARG002 - checked by the host when the job is created
        hyperparameters: Hyperparameters | None = None,  # noqa: ARG002 - the same
    ) -> TrainingAvailability:
        """Check whether jobs are accepted, by requesting one on a file that does not exist, if the profile allows that.

        The check is made at the profile's own address only: another host of that name might accept the job. The host
        checks method and hyperparameters when the job is created.

        Raises:
            TrainingNotAvailableError: This organization is not allowed to create jobs.
            AuthenticationError: The key was refused, or is not allowed to create jobs.
        """
        profile = self._api.profile
        if not profile.probe_training or self._api.base_url.rstrip("/") != profile.base_url.rstrip("/"):
            return TrainingAvailability(allowed=None, why="it is only known when a job is created")
        try:
            job = self._api.call_once(
                "check whether jobs are accepted",
                lambda client: client.fine_tuning.jobs.create(model=model, training_file=PROBE_FILE),
                self._job,
            )
        except (TrainingNotAvailableError, AuthenticationError):
            raise
        except (RequestRefusedError, NotFoundError) as exc:
            return TrainingAvailability(allowed=True if ABOUT_FILE.search(exc.message) else None, why=exc.message)
        except FtpipeError as exc:
            return TrainingAvailability(allowed=None, why=exc.message)
        self.cancel(job.id)
        return TrainingAvailability(
            allowed=None, why=f"it accepts jobs on files that do not exist ({job.id}, cancelled at once)"
        )

    def body(self, request: JobRequest, *, key: str) -> dict[str, Any]:
        """The arguments of the create call, in the form that the endpoint's profile needs; unset stays unset."""
        profile = self._api.profile
        body: dict[str, Any] = {"model": request.model, "training_file": request.training_file.id}
        if request.validation_file:
            body["validation_file"] = request.validation_file.id
        hyperparameters = _explicit_hyperparameters(request.hyperparameters)
        if profile.hyperparameters_at == "top":
            if hyperparameters:
                body["hyperparameters"] = hyperparameters
        else:
            block: dict[str, Any] = {"hyperparameters": hyperparameters} if hyperparameters else {}
            if request.grader is not None:
                block["grader"] = request.grader
            body["method"] = {"type": request.method.value, request.method.value: block}
        if request.suffix is not None:
            body["suffix"] = request.suffix
        if request.seed is not None:
            body["seed"] = request.seed
        if request.integrations:
            body["integrations"] = list(request.integrations)
        if profile.metadata_stored:
            body["metadata"] = {**request.metadata, KEY_NAME: key}
        if request.serve_as is not None:
            body["extra_body"] = {"serve_as": request.serve_as}
        return body

    def quote(self, request: JobRequest) -> PriceQuote | None:  # noqa: ARG002 - a part of every host's jobs
        """``None``: the API estimates no prices."""
        return None

    def match_key(self, job: Job, key: str) -> bool | None:
        """Whether the job's metadata carry the key; ``None`` if they carry none."""
        carried = job.metadata.get(KEY_NAME)
        return None if carried is None else carried == key

    def find_by_key(self, key: str) -> list[Job]:
        """Jobs whose metadata carry the key; empty if the endpoint does not filter by metadata."""
        if not self._api.profile.metadata_filter:
            return []
        return [job for job in self._list({KEY_NAME: key}, since=0) if self.match_key(job, key)]

    def recent(self, *, since: int = 0) -> Iterator[Job]:
        """Jobs, newest first, down to ``since`` (UTC Unix seconds)."""
        return self._list({}, since=since)

    def _list(self, filters: Mapping[str, str], *, since: int) -> Iterator[Job]:
        def call(client: openai.OpenAI) -> list[Job]:
            page = (
                client.fine_tuning.jobs.list(limit=100, metadata=dict(filters))
                if filters
                else client.fine_tuning.jobs.list(limit=100)
            )
            jobs: list[Job] = []
            first: int | None = None
            for item in islice(self._api.iter_items(page), MAX_LISTED_JOBS):
                job = self._listed_job(item)
                first = job.created_at if first is None else first
                if job.created_at >= since:
                    jobs.append(job)
                elif first > job.created_at:
                    break  # only if the list runs backwards in time: not every host's does
            return jobs

        return iter(self._api.read("list the jobs", call, list))

    def all(self) -> JobListing:
        """Every job that the key can see, newest first; a job that cannot be read does not hide the others."""

        def call(client: openai.OpenAI) -> JobListing:
            jobs, unreadable = [], 0
            for item in self._api.iter_items(client.fine_tuning.jobs.list(limit=100)):
                try:
                    jobs.append(self._listed_job(item))
                except InvalidResponseError:
                    unreadable += 1
            return JobListing(sorted(jobs, key=lambda job: -job.created_at), unreadable)

        return self._api.read("list the jobs", call, lambda listing: JobListing(*listing))

    def get(self, job_id: str) -> Job:
        """Get one job."""
        return self._api.read(f"get job {job_id}", lambda client: client.fine_tuning.jobs.retrieve(job_id), self._job)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._api.call_once(
            f"cancel job {job_id}", lambda client: client.fine_tuning.jobs.cancel(job_id), self._job
        )

    def pause(self, job_id: str) -> Job:
        """Pause a job."""
        return self._api.call_once(
            f"pause job {job_id}", lambda client: client.fine_tuning.jobs.pause(job_id), self._job
        )

    def resume(self, job_id: str) -> Job:
        """Continue a paused job."""
        return self._api.call_once(
            f"resume job {job_id}", lambda client: client.fine_tuning.jobs.resume(job_id), self._job
        )

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended; only ftpipe's own server can."""
        self._api.call_once(
            f"delete job {job_id}",
            lambda client: client.delete(f"/fine_tuning/jobs/{job_id}", cast_to=httpx2.Response),
            lambda _response: None,
        )

    def events(self, job_id: str, *, known: Iterable[str] = ()) -> list[Event]:
        """Events whose ids are not in ``known``, oldest first.

        Endpoints list newest first or oldest first, so the order of the list only decides between equal times.
        """
        known_ids = frozenset(known)

        def call(client: openai.OpenAI) -> list[Event]:
            events: list[Event] = []
            for item in self._api.iter_items(client.fine_tuning.jobs.list_events(job_id, limit=100)):
                event = event_of(item)
                if event.id in known_ids and _is_newest_first(events, event):
                    break
                events.append(event)
            return events

        listed = self._api.read(f"list the events of job {job_id}", call, list)
        fresh = {event.id: event for event in listed if event.id not in known_ids}
        ordered = list(fresh.values())
        if ordered and ordered[0].created_at >= ordered[-1].created_at:
            ordered.reverse()
        return sorted(ordered, key=lambda event: event.created_at)

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Checkpoints by step."""
        checkpoints = self._api.read(
            f"list the checkpoints of job {job_id}",
            lambda client: [
                checkpoint_of(item)
                for item in self._api.iter_items(client.fine_tuning.jobs.checkpoints.list(job_id, limit=100))
            ],
            list,
        )
        return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)

    def download_weights(
        self,
        job_id: str,  # noqa: ARG002 - a part of every host's jobs
        folder: Path,  # noqa: ARG002
        *,
        on_bytes: Callable[[int, int | None], None],  # noqa: ARG002
    ) -> list[Path]:
        """The API gives no weights away.

        Raises:
            RequestRefusedError: Always.
        """
        raise RequestRefusedError(
            f"{self._api.profile.title or self._api.base_url} does not let the weights of its models be downloaded",
            "retrain at a host that does: `ftpipe train --provider local`, together or fireworks",
        )

    def _listed_job(self, item: object) -> Job:
        """A job of a list, without its status if the endpoint's lists are not right about that."""
        job = self._job(item)
        return job if self._api.profile.list_has_status else job.model_copy(update={"status": "unknown"})

    def _job(self, response: object) -> Job:
        return job_of(response, endpoint=self._endpoint, provider=self._api.profile.name)


def _is_newest_first(events: list[Event], event: Event) -> bool:
    """Whether the list runs backwards in time, so that everything after a known event is known, too."""
    return bool(events) and events[0].created_at >= event.created_at


def _explicit_hyperparameters(hyperparameters: Hyperparameters) -> dict[str, Any]:
    named = hyperparameters.model_dump(mode="json", exclude={"extra"}, exclude_none=True)
    return {**{name: value for name, value in named.items() if value != "auto"}, **hyperparameters.extra}
