"""Take an inventory: read all models, checkpoints, jobs and files that a key can see, and adopt them into the registry.

Only reads: nothing at the endpoint is changed. Jobs, models and files are matched although each list has gaps: files
are deleted, jobs of other projects are not listed, and fields are null.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import AuthenticationError, FtpipeError, NotFoundError, ProviderError
from ftpipe.migration.base_proposals import propose_bases
from ftpipe.pipeline.adopt import adopt_listed
from ftpipe.providers.deadlines import days_left, is_closed
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import RemoteFile, RemoteModel
from ftpipe.records import Checkpoint, Job, Method, Model, TrainingMetrics, UploadedFile
from ftpipe.records.inventory import (
    DateSource,
    FileState,
    Inventory,
    InventoryFile,
    InventoryJob,
    InventoryModel,
    ModelState,
    RetrainingCost,
)
from ftpipe.records.migration import TrainingTask
from ftpipe.registry import Registry
from ftpipe.tokenization import base_of

T = TypeVar("T")

CHECKPOINT_NAME = re.compile(r"(?P<model>.+):ckpt-step-(?P<step>\d{1,9})")
"""A checkpoint's name. Source: OpenAI supervised fine-tuning guide, 2026-07-15."""
WITHOUT_CHECKPOINTS = ("validating_files", "queued")
"""Statuses of jobs that cannot have checkpoints yet."""
BYTES_PER_TOKEN = 5
"""Of a chat file with its keys, for files whose tokens nobody has reported: on ``data/support_desk`` it is 5.2."""
DEFAULT_EPOCHS = 3
STATES: tuple[ModelState, ...] = ("available", "missing", "shut down")
"""The order of models in an inventory."""
NEW_MODEL_SECONDS = 3600
"""How long after its job a model may be missing in lists. Source: OpenAI fine-tuning guide, January 2025 (minutes)."""


@dataclass
class AccountListing:
    """What the lists of an endpoint say."""

    jobs: list[Job] = field(default_factory=list)
    models: dict[str, RemoteModel] | None = None
    """By name; ``None`` if the list could not be read."""
    files: dict[str, RemoteFile] = field(default_factory=dict)
    missing_files: set[str] = field(default_factory=set)
    """Files that jobs name, and that the endpoint says it does not have."""
    checkpoints: dict[str, list[Checkpoint]] = field(default_factory=dict)
    """By job."""
    problems: list[str] = field(default_factory=list)

    def file_state(self, file_id: str | None) -> FileState:
        """Whether the endpoint has a file."""
        if file_id in self.files:
            return "available"
        return "missing" if file_id in self.missing_files else "unknown"


def read_account(
    provider: Provider, *, now: float, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> AccountListing:
    """Read all lists of an endpoint.

    Args:
        provider: The endpoint.
        now: UTC Unix seconds; a file that has expired is missing.
        on_progress: Called with the number of requests about single jobs and files that are done, and of all.

    Raises:
        FtpipeError: Neither jobs nor models can be listed.
    """
    listing, errors = AccountListing(), []

    def read(what: str, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except (ProviderError, AuthenticationError) as error:
            errors.append(error)
            listing.problems.append(f"the {what} cannot be listed: {error.message}")
            return None

    jobs = read("jobs", provider.jobs.all)
    models = read("models", provider.models.all)
    if jobs is None and models is None:
        raise errors[0]
    files = read("files", provider.files.all)
    if jobs is not None:
        listing.jobs = jobs.jobs
        if jobs.unreadable:
            listing.problems.append(f"jobs that were listed in an unknown form and are left out: {jobs.unreadable}")
    listing.models = None if models is None else {model.id: model for model in models}
    live = [file for file in files or () if file.expires_at is None or file.expires_at > now]
    listing.files = {file.id: file for file in live}
    _read_details(listing, provider, on_progress)
    return listing


def _read_details(listing: AccountListing, provider: Provider, on_progress: Callable[[int, int], None]) -> None:
    """Read the checkpoints of every job, and look for files that jobs name and that were not listed."""
    jobs = [job for job in listing.jobs if job.status not in WITHOUT_CHECKPOINTS]
    named = {file_id for job in listing.jobs for file_id in job.file_ids}
    unlisted = sorted(named - listing.files.keys())
    total = len(jobs) + len(unlisted)
    on_progress(0, total)
    for done, job in enumerate(jobs, start=1):
        try:
            listing.checkpoints[job.id] = provider.jobs.checkpoints(job.id)
        except (ProviderError, AuthenticationError) as error:
            listing.problems.append(f"the checkpoints of {job.id} cannot be listed: {error.message}")
        on_progress(done, total)
    for done, file_id in enumerate(unlisted, start=len(jobs) + 1):
        try:
            listing.files[file_id] = provider.files.get(file_id)
        except NotFoundError:
            listing.missing_files.add(file_id)
        except (ProviderError, AuthenticationError) as error:
            listing.problems.append(f"it is not known whether file {file_id} exists: {error.message}")
        on_progress(done, total)


class Hosts:
    """Where models could be trained again, and at what price.

    Args:
        profiles: The endpoints; those of the user's own, whose prices nobody knows, are left out.
        prices: The user's own prices.
    """

    def __init__(self, profiles: Iterable[Profile], prices: Mapping[str, Any] | None = None) -> None:
        known = [profile for profile in profiles if profile.name == profile.target]
        self._tables = [(profile, PriceTable.load(prices, target=profile.target)) for profile in known]

    def costs(self, base: str, tokens: int, method: Method, today: dt.date) -> tuple[RetrainingCost, ...]:
        """The cost of training so many tokens at each host that accepts jobs on that day, the cheapest first.

        The base is the same one if the host has it, otherwise the one that is proposed in its place.
        """
        costs = []
        for profile, table in self._tables:
            if method not in profile.methods or is_closed(profile, today):
                continue
            names = _candidates(base, method, profile, table, today)
            name, row = next(((name, row) for name in names if (row := table.row(name)) is not None), ("", None))
            if row is not None:
                costs.append(
                    RetrainingCost(
                        provider=profile.name,
                        base=name,
                        cost=max(row.minimum, round(tokens * row.price_for(method) / 1_000_000, 6)),
                        currency=row.currency,
                        price_as_of=row.as_of.isoformat() if row.as_of else None,
                        last_day=profile.last_day_to_create,
                    )
                )
        return tuple(sorted(costs, key=lambda cost: (cost.cost, cost.provider)))


def _candidates(base: str, method: Method, profile: Profile, table: PriceTable, today: dt.date) -> Iterator[str]:
    """Bases of a host for a model of this base, the best first."""
    if profile.paid and _is_offered(base, method, profile, today):
        yield base
    task = TrainingTask(method=method, examples=0)
    for proposal in propose_bases(base, task, target=profile.target, prices=table):
        if not proposal.obstacle and _is_offered(proposal.name, method, profile, today):
            yield proposal.name
    if _is_offered(profile.default_model, method, profile, today):
        yield profile.default_model


def _is_offered(base: str, method: Method, profile: Profile, today: dt.date) -> bool:
    """Whether a base model can be trained by this method and was not shut down, as far as the catalogue knows."""
    row = find_base(base)
    if row is None:
        return True
    day = row.shutdown.get(profile.target)
    return method.value in row.methods and (day is None or day > today)


def build_inventory(
    listing: AccountListing, *, provider: Provider, hosts: Hosts, registry: Registry, today: dt.date
) -> Inventory:
    """The inventory of an account.

    Args:
        listing: From ``read_account``.
        provider: The endpoint that was read.
        hosts: Where its models could be trained again.
        registry: Tells what is registered.
        today: The day for which it is, in UTC.
    """
    registered = {model.id for model in registry.models.recent() if model.endpoint == provider.endpoint}
    jobs = [_job_row(job, listing, registry) for job in listing.jobs]
    models = _model_rows(listing, {job.id: job for job in jobs}, provider.profile, today)
    by_id = {job.id: job for job in listing.jobs}
    rows = []
    for model in models:
        own = by_id[model.job.id] if model.job else None
        tokens, is_estimate = _tokens(own, listing) if own else (None, False)
        costs = hosts.costs(model.base, tokens, own.method, today) if own and tokens is not None else ()
        update = {"trained_tokens": tokens, "tokens_are_estimated": is_estimate, "retraining": costs}
        rows.append(model.model_copy(update={**update, "is_registered": model.id in registered}))
    return Inventory(
        provider=provider.profile.name,
        title=provider.profile.title or provider.profile.name,
        endpoint=provider.endpoint,
        today=today.isoformat(),
        last_day_to_create=provider.profile.last_day_to_create,
        accepts_jobs=not is_closed(provider.profile, today),
        models=tuple(sorted(rows, key=_by_end)),
        jobs=tuple(jobs),
        files=_file_rows(listing),
        problems=tuple(listing.problems),
    )


def _by_end(model: InventoryModel) -> tuple[int, int, str, int, str]:
    """Models that still answer first, by the day on which they end; then by base, newest first."""
    left = model.days_left if model.days_left is not None else sys.maxsize
    return (STATES.index(model.state), left, model.base, -(model.created_at or 0), model.id)


def _job_row(job: Job, listing: AccountListing, registry: Registry) -> InventoryJob:
    return InventoryJob(
        id=job.id,
        status=job.status,
        base=job.model,
        created_at=job.created_at or None,
        finished_at=job.finished_at,
        model=job.fine_tuned_model,
        training_file=job.training_file,
        training_file_state=listing.file_state(job.training_file),
        missing_files=tuple(one for one in job.file_ids if listing.file_state(one) == "missing"),
        trained_tokens=job.trained_tokens,
        is_registered=registry.jobs.get(job.id) is not None,
    )


def _file_rows(listing: AccountListing) -> tuple[InventoryFile, ...]:
    users: dict[str, list[str]] = {}
    for job in listing.jobs:
        for file_id in job.file_ids:
            users.setdefault(file_id, []).append(job.id)
    rows = (
        InventoryFile(
            id=file.id,
            filename=file.filename,
            purpose=file.purpose,
            bytes=file.bytes,
            created_at=file.created_at or None,
            expires_at=file.expires_at,
            jobs=tuple(users.get(file.id, ())),
        )
        for file in listing.files.values()
    )
    return tuple(sorted(rows, key=lambda row: (-(row.created_at or 0), row.id)))


def _model_rows(
    listing: AccountListing, jobs: Mapping[str, InventoryJob], profile: Profile, today: dt.date
) -> list[InventoryModel]:
    """A row for each tuned model that is listed or that a job names, with its checkpoints."""
    made_by: dict[str, InventoryJob] = {}
    points: dict[str, set[str]] = {}
    for job in listing.jobs:  # newest first
        if job.fine_tuned_model:
            made_by.setdefault(job.fine_tuned_model, jobs[job.id])
        names = {point.model for point in listing.checkpoints.get(job.id, ()) if point.model}
        owner = job.fine_tuned_model or next((parent_of(name) for name in sorted(names)), None)
        if owner and names:
            made_by.setdefault(owner, jobs[job.id])
            points.setdefault(owner, set()).update(names)
    listed = listing.models or {}
    for name in listed:
        if is_tuned(name) and (parent := parent_of(name)) and (parent in listed or parent in made_by):
            points.setdefault(parent, set()).add(name)
    known = {name for group in points.values() for name in group}
    unowned = [name for name in listed if is_tuned(name) and name not in made_by and name not in known]
    return [
        _model_row(name, made_by.get(name), points.get(name, set()), listing, profile, today)
        for name in (*made_by, *unowned)
    ]


def _model_row(
    name: str,
    job: InventoryJob | None,
    checkpoints: set[str],
    listing: AccountListing,
    profile: Profile,
    today: dt.date,
) -> InventoryModel:
    remote = (listing.models or {}).get(name)
    base = base_name(job.base if job and job.base else name)
    day, source = shutdown_of(name, base, listing, profile)
    left = days_left(day, today)
    return InventoryModel(
        id=name,
        provider=profile.name,
        base=base,
        state=_state(left, is_listed=remote is not None or listing.models is None),
        created_at=(remote.created_at if remote else None) or (job and (job.finished_at or job.created_at)) or None,
        checkpoints=tuple(sorted(checkpoints, key=_step_of)),
        job=job,
        shutdown_date=day,
        shutdown_source=source,
        days_left=left,
    )


def _state(left: int | None, *, is_listed: bool) -> ModelState:
    """Within the day of its shutdown a model answers as long as it is listed."""
    if left is not None and (left < 0 or (left == 0 and not is_listed)):
        return "shut down"
    return "available" if is_listed else "missing"


def shutdown_of(
    name: str, base: str, listing: AccountListing, profile: Profile
) -> tuple[str | None, DateSource | None]:
    """When a model is shut down: what the endpoint says about it, else about its base, else what the catalogue says."""
    listed = listing.models or {}
    if (own := listed.get(name)) and own.shutdown_date:
        return own.shutdown_date, "endpoint"
    row = find_base(base)
    for spelling in (base, *((row.name, *row.aliases) if row else ())):
        if (remote := listed.get(spelling)) and remote.shutdown_date:
            return remote.shutdown_date, "endpoint, of the base"
    day = row.shutdown.get(profile.target) if row else None
    return (day.isoformat(), "catalogue") if day else (None, None)


def is_tuned(name: str) -> bool:
    """Whether a name is that of a tuned model: of today's form, of the form before 2023-08, or of Azure's."""
    return base_of(name) != name or ":ft-" in name


def base_name(name: str) -> str:
    """The base model in the name of a tuned model, also in the form before 2023-08: ``curie:ft-org-2023-02-01-…``."""
    return base_of(name).partition(":ft-")[0]


def parent_of(name: str) -> str | None:
    """The model whose checkpoint a name is; ``None`` for the name of a model."""
    match = CHECKPOINT_NAME.fullmatch(name)
    return match["model"] if match else None


def _step_of(name: str) -> tuple[int, str]:
    match = CHECKPOINT_NAME.fullmatch(name)
    return (int(match["step"]) if match else 0, name)


def _tokens(job: Job, listing: AccountListing) -> tuple[int | None, bool]:
    """The billable tokens of a job, and whether they are estimated from its file."""
    if job.trained_tokens is not None:
        return job.trained_tokens, False
    file = listing.files.get(job.training_file)
    if file is None or not file.bytes:
        return None, False
    epochs = job.resolved.n_epochs if job.resolved else DEFAULT_EPOCHS
    return file.bytes // BYTES_PER_TOKEN * (DEFAULT_EPOCHS if epochs == "auto" else epochs), True


def adopt_account(listing: AccountListing, *, provider: Provider, registry: Registry, now: float) -> list[str]:
    """Save all jobs and tuned models of an account in the registry; doing it again saves only what has changed.

    Args:
        listing: From ``read_account``.
        provider: The endpoint that was read.
        registry: Where they are saved.
        now: UTC Unix seconds.

    Returns:
        Why some of them could not be saved.
    """
    today = dt.datetime.fromtimestamp(now, dt.UTC).date()
    jobs = {job.id: _job_row(job, listing, registry) for job in listing.jobs}
    models = _model_rows(listing, jobs, provider.profile, today)
    missing = {model.id for model in models if model.state == "missing"}
    problems = []
    for job in reversed(listing.jobs):  # the oldest first, as the runs of this registry were started
        day, _ = shutdown_of(job.fine_tuned_model or "", base_name(job.model), listing, provider.profile)
        is_new = job.finished_at is not None and now - job.finished_at < NEW_MODEL_SECONDS
        try:
            adopt_listed(
                job,
                file=_uploaded(listing.files.get(job.training_file), provider),
                checkpoints=listing.checkpoints.get(job.id, []),
                base_shutdown_date=day,
                has_model=is_new or job.fine_tuned_model not in missing,
                registry=registry,
            )
        except FtpipeError as error:
            problems.append(f"{job.id} was not added to the registry: {error.message}")
    known = {model.id for model in registry.models.recent() if model.endpoint == provider.endpoint}
    for model in models:
        if model.job is None and model.id not in known:
            registry.models.add(_model_without_job(model, provider))
    return problems


def _uploaded(file: RemoteFile | None, provider: Provider) -> UploadedFile | None:
    if file is None:
        return None
    return UploadedFile(
        id=file.id,
        endpoint=provider.endpoint,
        sha256="",
        bytes=file.bytes,
        filename=file.filename,
        created_at=file.created_at,
    )


def _model_without_job(model: InventoryModel, provider: Provider) -> Model:
    created_at = model.created_at or 0
    points = [(name, _step_of(name)[0]) for name in model.checkpoints]
    return Model(
        id=model.id,
        base=model.base,
        provider=model.provider,
        endpoint=provider.endpoint,
        job_id="",
        file_id="",
        dataset_sha256="",
        checkpoints=tuple(
            Checkpoint(id=name, created_at=created_at, step=step, model=name, metrics=TrainingMetrics(step=step))
            for name, step in points
        ),
        base_shutdown_date=model.shutdown_date,
        created_at=created_at,
    )
