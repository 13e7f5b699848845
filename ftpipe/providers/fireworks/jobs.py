"""Supervised and DPO jobs of Fireworks. Their ids are chosen here, so that a job is found by its key without a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import openai

from ftpipe.errors import InvalidResponseError, NotFoundError, RequestRefusedError
from ftpipe.providers.fireworks.api import RESOURCE_ID, FireworksApi
from ftpipe.providers.fireworks.job_request import ID_PREFIXES, check_hyperparameters, job_body, job_id_of
from ftpipe.providers.fireworks.models import FireworksModels, base_name
from ftpipe.providers.fireworks.responses import events_of, job_of
from ftpipe.providers.responses import JobListing, PriceQuote, TrainingAvailability
from ftpipe.providers.signed_urls import get_bytes, require_signed_url
from ftpipe.records import Checkpoint, Event, Hyperparameters, Job, JobRequest, Method
from ftpipe.records.idempotency_keys import attempt_key

COLLECTIONS = {Method.SUPERVISED: "supervisedFineTuningJobs", Method.DPO: "dpoJobs"}
ID_PARAMETERS = {Method.SUPERVISED: "supervisedFineTuningJobId", Method.DPO: "dpoJobId"}
MAX_LISTED_JOBS = 2000
MAX_METRICS_BYTES = 64 * 1024 * 1024
"""Metrics files up to this size are read."""
MAX_ATTEMPTS_WITH_KEY = 20
"""How many jobs with the ids of one key are looked at."""


class FireworksJobs:
    """The supervised and DPO jobs of an account.

    Args:
        fireworks: Makes the calls.
        models: The models of the same account.
        endpoint: Fingerprint of the endpoint.
    """

    def __init__(self, fireworks: FireworksApi, models: FireworksModels, *, endpoint: str) -> None:
        self._fireworks = fireworks
        self._models = models
        self._endpoint = endpoint
        self._api = fireworks.api

    def create(self, request: JobRequest, *, key: str) -> Job:
        """Create a job with the id of the key: one POST, never repeated here.

        If the endpoint says that the id exists, the job of that id is returned: a call with this key made it.

        Raises:
            OutcomeUnknownError: The job may exist.
            ProviderError: The job surely does not exist.
        """
        method = request.method
        job_id = job_id_of(key, method)
        collection, name = self._collection(method), self._name(job_id, method)
        body = job_body(request, job_id=job_id, parent=self._fireworks.parent)

        def call(client: openai.OpenAI) -> Mapping[str, Any]:
            try:
                return self._fireworks.post(client, collection, body, {ID_PARAMETERS[method]: job_id})
            except openai.ConflictError as conflict:
                try:
                    return self._fireworks.get(client, name)
                except openai.NotFoundError:
                    raise conflict from None

        job = self._api.write("create the job", call, self._job, paid=True)
        return job.model_copy(update={"requested": request.hyperparameters, "method": method, "suffix": request.suffix})

    def check_can_create(
        self, model: str, *, method: Method | None = None, hyperparameters: Hyperparameters | None = None
    ) -> TrainingAvailability:
        """Check whether the account can train this base with LoRA, before anything is uploaded.

        Raises:
            NotFoundError: There is no such model.
            RequestRefusedError: It cannot be trained, or a hyperparameter is outside the limits.
        """
        if hyperparameters is not None:
            check_hyperparameters(hyperparameters, method or Method.SUPERVISED)
        fields = self._models.tunable_base(model)
        limit = fields.get("trainingContextLength")
        requested = hyperparameters.extra.get("maxContextLength") if hyperparameters else None
        if isinstance(limit, int) and isinstance(requested, int) and 0 < limit < requested:
            raise RequestRefusedError(
                f"{base_name(model)} is trained with at most {limit:,} tokens, and maxContextLength is {requested:,}",
                f"set maxContextLength to {limit} or less",
            )
        return TrainingAvailability(allowed=True, why=f"{base_name(model)} can be trained with LoRA")

    def quote(self, request: JobRequest) -> PriceQuote | None:  # noqa: ARG002 - a part of every host's jobs
        """``None``: Fireworks estimates the cost of a job only after it was created."""
        return None

    def match_key(self, job: Job, key: str) -> bool | None:
        """Whether the job's id is one of the key's."""
        return job.id in _ids_of(key)

    def find_by_key(self, key: str) -> list[Job]:
        """The jobs with the ids of a key, each got by its id, the oldest first."""
        jobs: list[Job] = []
        for method in COLLECTIONS:
            for number in range(1, MAX_ATTEMPTS_WITH_KEY + 1):
                try:
                    jobs.append(self.get(job_id_of(attempt_key(key, number), method)))
                except NotFoundError:
                    break
        return jobs

    def all(self) -> JobListing:
        """Every job of both kinds, newest first; a job that cannot be read does not hide the others."""
        collections = [self._collection(method) for method in COLLECTIONS]

        def call(client: openai.OpenAI) -> JobListing:
            jobs, unreadable = [], 0
            for fields in self._listed(client, collections):
                try:
                    jobs.append(self._job(fields))
                except InvalidResponseError:
                    unreadable += 1
            return JobListing(sorted(jobs, key=lambda job: -job.created_at), unreadable)

        return self._api.read("list the jobs", call, lambda listing: JobListing(*listing))

    def _listed(self, client: openai.OpenAI, collections: Iterable[str]) -> Iterator[dict[str, Any]]:
        for collection in collections:
            yield from self._fireworks.list(client, collection, orderBy="createTime desc")

    def recent(self, *, since: int = 0) -> Iterator[Job]:
        """Jobs of both kinds, newest first, down to ``since`` (UTC Unix seconds)."""
        collections = [self._collection(method) for method in COLLECTIONS]

        def call(client: openai.OpenAI) -> list[Job]:
            jobs = [self._job(fields) for fields in islice(self._listed(client, collections), MAX_LISTED_JOBS)]
            return sorted((job for job in jobs if job.created_at >= since), key=lambda job: -job.created_at)

        return iter(self._api.read("list the jobs", call, list))

    def get(self, job_id: str) -> Job:
        """Get one job."""
        return self._job(self._fields(job_id))

    def _fields(self, job_id: str) -> dict[str, Any]:
        names = self._names(job_id)

        def call(client: openai.OpenAI) -> dict[str, Any]:
            for name in names[:-1]:
                try:
                    return self._fireworks.get(client, name)
                except openai.NotFoundError:
                    continue
            return self._fireworks.get(client, names[-1])

        return self._api.read(f"get job {job_id}", call, dict)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Not possible at Fireworks.

        Raises:
            RequestRefusedError: Always.
        """
        raise RequestRefusedError(
            f"Fireworks cannot pause a job, so {job_id} continues", f"end it with `ftpipe jobs cancel {job_id}`"
        )

    def resume(self, job_id: str) -> Job:
        """Continue a job that Fireworks has paused, for example of an account that was suspended."""
        return self._act(job_id, "resume")

    def _act(self, job_id: str, verb: str) -> Job:
        name = str(self._fields(job_id)["name"])

        def call(client: openai.OpenAI) -> dict[str, Any]:
            self._fireworks.post(client, f"{name}:{verb}", {})
            return self._fireworks.get(client, name)

        return self._api.call_once(f"{verb} job {job_id}", call, self._job)

    def delete(self, job_id: str) -> None:
        """Delete a job; its model stays."""
        name = str(self._fields(job_id)["name"])
        self._api.call_once(
            f"delete job {job_id}",
            lambda client: self._fireworks.delete(client, name),
            lambda _nothing: None,
        )

    def events(self, job_id: str, *, known: Iterable[str] = ()) -> list[Event]:
        """What the job says of itself as events, with the steps of its metrics file, oldest first."""
        fields, known_ids = self._fields(job_id), frozenset(known)
        return [event for event in events_of(fields, self._metrics(job_id, fields)) if event.id not in known_ids]

    def _metrics(self, job_id: str, fields: Mapping[str, Any]) -> str | None:
        """The metrics file; ``None`` before there is one."""
        url = fields.get("metricsFileSignedUrl")
        if "/dpoJobs/" in str(fields.get("name")):
            url = self._dpo_metrics_url(job_id, str(fields["name"]))
        if not isinstance(url, str) or not url:
            return None
        checked = require_signed_url(url, api_url=self._api.base_url)
        try:
            data = self._api.read(
                f"get the metrics of job {job_id}",
                lambda _client: get_bytes(checked, max_bytes=MAX_METRICS_BYTES),
                bytes,
            )
        except RequestRefusedError:
            return None  # the URL is there before the file. Source: public run logs, 2026
        return data.decode("utf-8", "replace")

    def _dpo_metrics_url(self, job_id: str, name: str) -> object:
        try:
            return self._api.read(
                f"get the metrics of job {job_id}",
                lambda client: self._fireworks.get(client, f"{name}:getMetricsFileEndpoint"),
                lambda fields: fields.get("signedUrl"),
            )
        except (NotFoundError, RequestRefusedError):
            return None  # not before the first step

    def checkpoints(self, job_id: str) -> list[Checkpoint]:  # noqa: ARG002 - a part of every host's jobs
        """Empty: Fireworks lists no checkpoints of a job."""
        return []

    def download_weights(self, job_id: str, folder: Path, *, on_bytes: Callable[[int, int | None], None]) -> list[Path]:
        """Download the adapter of a job from signed URLs into an empty folder; returns its files."""
        job = self.get(job_id)
        if job.fine_tuned_model is None:
            raise RequestRefusedError(
                f"{job_id} is {job.status} and has no model", f"`ftpipe status {job_id}` shows it"
            )
        return self._models.download(job.fine_tuned_model, folder, on_bytes=on_bytes)

    def _names(self, job_id: str) -> list[str]:
        """The full names that a job of that id can have."""
        if not RESOURCE_ID.fullmatch(job_id):
            raise NotFoundError(
                f"{job_id[:200]!r} is not the id of a job of Fireworks", "`ftpipe jobs list` lists the jobs"
            )
        for method, prefix in ID_PREFIXES.items():
            if job_id.startswith(prefix):
                return [self._name(job_id, method)]
        return [self._name(job_id, method) for method in COLLECTIONS]

    def _name(self, job_id: str, method: Method) -> str:
        return f"{self._collection(method)}/{job_id}"

    def _collection(self, method: Method) -> str:
        return f"{self._fireworks.parent}/{COLLECTIONS[method]}"

    def _job(self, fields: Mapping[str, Any]) -> Job:
        return job_of(fields, endpoint=self._endpoint, provider=self._api.profile.name, parent=self._fireworks.parent)


def _ids_of(key: str) -> set[str]:
    return {
        job_id_of(attempt_key(key, number), method)
        for method in COLLECTIONS
        for number in range(1, MAX_ATTEMPTS_WITH_KEY + 1)
    }
