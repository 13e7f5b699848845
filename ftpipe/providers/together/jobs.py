"""``/v1/fine-tunes``: jobs without metadata and idempotency keys, so the suffix carries a part of the journal's key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from ftpipe.errors import InvalidResponseError, NotFoundError, ProviderError, RequestRefusedError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.responses import JobListing, PriceQuote, TrainingAvailability
from ftpipe.providers.rest import request_json
from ftpipe.providers.signed_urls import MAX_DOWNLOAD_SECONDS, download
from ftpipe.providers.together.deployments import TogetherDeployments
from ftpipe.providers.together.job_request import (
    KEY_IN_NAME,
    ModelLimits,
    check_limits,
    estimate_body,
    job_body,
    limits_of,
    short_key,
)
from ftpipe.providers.together.responses import (
    checkpoint_of,
    event_of,
    items_of,
    job_of,
    metrics_event_of,
    quote_of,
)
from ftpipe.providers.weights_archive import extract_weights
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobRequest, Method

JOBS = "/v1/fine-tunes"


class TogetherJobs:
    """The jobs of Together."""

    def __init__(self, api: ApiClient, *, endpoint: str, deployments: TogetherDeployments) -> None:
        self._api = api
        self._deployments = deployments
        self._endpoint = endpoint
        self._limits: dict[str, ModelLimits] = {}

    def create(self, request: JobRequest, *, key: str) -> Job:
        """Create a job: one POST, never repeated here; its suffix carries the key."""
        limits = self._limits_of(request.model)
        check_limits(request.hyperparameters, request.method, limits)
        body = job_body(request, key=key, limits=limits)
        job = self._api.write(
            "create the job", lambda client: request_json(client, "POST", JOBS, body=body), self._job, paid=True
        )
        return job.model_copy(
            update={
                "requested": request.hyperparameters,
                "method": request.method,
                "suffix": request.suffix,
                # the response can be truncated
                "model": job.model or request.model,
                "training_file": job.training_file or request.training_file.id,
            }
        )

    def check_can_create(
        self, model: str, *, method: Method | None = None, hyperparameters: Hyperparameters | None = None
    ) -> TrainingAvailability:
        """Read the limits of the base, and check the hyperparameters against them.

        Raises:
            NotFoundError: The base cannot be fine-tuned here.
            RequestRefusedError: A hyperparameter is outside the limits.
        """
        limits = self._limits_of(model)
        check_limits(hyperparameters or Hyperparameters(), method or Method.SUPERVISED, limits)
        cannot_serve = (
            f"{model} can be tuned at Together and not be served there; `ftpipe models download` gets the adapter"
        )
        return TrainingAvailability(
            allowed=None,
            why=f"{model} can be fine-tuned; whether the balance suffices is known when a job is created",
            notice=cannot_serve if self._deployments.can_serve_base(model) is False else "",
        )

    def quote(self, request: JobRequest) -> PriceQuote | None:
        """Together's estimate; it changes nothing."""
        body = estimate_body(request, limits=self._limits_of(request.model))
        return self._api.read(
            "get the price estimate",
            lambda client: request_json(client, "POST", f"{JOBS}/estimate-price", body=body),
            quote_of,
        )

    def match_key(self, job: Job, key: str) -> bool | None:
        """Whether the job's suffix, or the output name that contains it, carries the key."""
        if job.suffix is not None:
            return short_key(key) in KEY_IN_NAME.findall(f"-{job.suffix}")
        keys = KEY_IN_NAME.findall(job.fine_tuned_model or "")
        return short_key(key) in keys if keys else None

    def find_by_key(self, key: str) -> list[Job]:
        """Jobs whose suffix carries the key; the list has no filter, so all jobs are read."""
        return [job for job in self.recent() if self.match_key(job, key)]

    def recent(self, *, since: int = 0) -> Iterator[Job]:
        """Jobs, newest first, down to ``since`` (UTC Unix seconds); the list has no pages and no documented order."""
        listed = self._api.read(
            "list the jobs",
            lambda client: request_json(client, "GET", JOBS),
            lambda response: [self._job(item) for item in items_of(response)],
        )
        return iter(sorted((job for job in listed if job.created_at >= since), key=lambda job: -job.created_at))

    def all(self) -> JobListing:
        """Every job that the key can see, newest first; a job that cannot be read does not hide the others."""

        def parse(response: object) -> JobListing:
            jobs, unreadable = [], 0
            for item in items_of(response):
                try:
                    jobs.append(self._job(item))
                except InvalidResponseError:
                    unreadable += 1
            return JobListing(sorted(jobs, key=lambda job: -job.created_at), unreadable)

        return self._api.read("list the jobs", lambda client: request_json(client, "GET", JOBS), parse)

    def get(self, job_id: str) -> Job:
        """Get one job."""
        return self._api.read(
            f"get job {job_id}", lambda client: request_json(client, "GET", f"{JOBS}/{job_id}"), self._job
        )

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; the steps that are done are paid."""
        return self._api.call_once(
            f"cancel job {job_id}",
            lambda client: request_json(client, "POST", f"{JOBS}/{job_id}/cancel"),
            self._job,
        )

    def pause(self, job_id: str) -> Job:
        """Refuse: jobs cannot be paused."""
        self._refuse_pause(job_id)

    def resume(self, job_id: str) -> Job:
        """Refuse: jobs cannot be paused."""
        self._refuse_pause(job_id)

    def _refuse_pause(self, job_id: str) -> NoReturn:
        raise RequestRefusedError(
            f"{self._api.profile.title or self._api.profile.name} cannot pause jobs",
            f"`ftpipe jobs cancel {job_id}` stops it for good; the steps that are done are paid",
        )

    def delete(self, job_id: str) -> None:
        """Delete a job with its weights."""
        self._api.call_once(
            f"delete job {job_id}",
            lambda client: request_json(client, "DELETE", f"{JOBS}/{job_id}"),
            lambda _response: None,
        )

    def events(self, job_id: str, *, known: Iterable[str] = ()) -> list[Event]:
        """Events whose ids are not in ``known``, oldest first, with the metrics as events of their own."""
        listed = self._api.read(
            f"list the events of job {job_id}",
            lambda client: request_json(client, "GET", f"{JOBS}/{job_id}/events"),
            lambda response: [event_of(item) for item in items_of(response)],
        )
        known_ids = frozenset(known)
        fresh = {event.id: event for event in (*listed, *self._metrics(job_id)) if event.id not in known_ids}
        return sorted(fresh.values(), key=lambda event: (event.created_at, event.data.get("step") or 0))

    def _metrics(self, job_id: str) -> list[Event]:
        try:
            rows = self._api.read(
                f"list the metrics of job {job_id}",
                lambda client: request_json(client, "GET", f"{JOBS}/{job_id}/metrics"),
                lambda response: [metrics_event_of(item) for item in items_of(response.get("metrics"))],
            )
        except ProviderError:
            return []  # a job is polled without its curves rather than not at all
        return [event for event in rows if event is not None]

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Checkpoints by step; model and adapter of a step are one."""
        listed = self._api.read(
            f"list the checkpoints of job {job_id}",
            lambda client: request_json(client, "GET", f"{JOBS}/{job_id}/checkpoints"),
            lambda response: [checkpoint_of(item, job_id=job_id) for item in items_of(response)],
        )
        by_step = {checkpoint.step: checkpoint for checkpoint in listed}
        return [by_step[step] for step in sorted(by_step)]

    def download_weights(self, job_id: str, folder: Path, *, on_bytes: Callable[[int, int | None], None]) -> list[Path]:
        """Download the adapter of a job, in PEFT's files, into an empty folder."""
        archive = folder / f".{job_id}.download"
        try:
            self._api.call_once(
                f"download the weights of job {job_id}",
                lambda client: download(
                    client,
                    "/v1/finetune/download",
                    archive,
                    query={"ft_id": job_id, "checkpoint": "adapter"},
                    on_bytes=on_bytes,
                ),
                lambda _response: None,
                seconds=MAX_DOWNLOAD_SECONDS,
            )
            return extract_weights(archive, folder)
        finally:
            archive.unlink(missing_ok=True)

    def _limits_of(self, model: str) -> ModelLimits:
        if model not in self._limits:
            try:
                self._limits[model] = self._api.read(
                    f"get the fine-tuning limits of {model}",
                    lambda client: request_json(client, "GET", f"{JOBS}/models/limits", query={"model_name": model}),
                    limits_of,
                )
            except NotFoundError as exc:
                title = self._api.profile.title or self._api.profile.name
                raise NotFoundError(
                    f"{title} does not fine-tune {model}: {exc.message}",
                    f"`ftpipe models bases --provider {self._api.profile.name}` lists bases; nothing was sent",
                ) from exc
        return self._limits[model]

    def _job(self, response: Any) -> Job:  # noqa: ANN401 - any JSON
        return job_of(response, endpoint=self._endpoint, provider=self._api.profile.name)
