"""Another host in place of this machine: its base models, its jobs and its chats behind the server's API."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ftpipe.catalog.base_models import is_hosted_base
from ftpipe.gateway.file_check import check_command
from ftpipe.gateway.supervisor import UpstreamSupervisor
from ftpipe.gateway.upstream_jobs import JobLimits
from ftpipe.gateway.upstream_routes import UpstreamRoutes
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider
from ftpipe.registry import open_registry
from ftpipe.server.jobs.grader_requests import GraderRequests
from ftpipe.server.jobs.validation_process import StartValidation, ValidationProcess
from ftpipe.server.model_resolver import LISTED_OPENAI_MODELS, BaseModels, ModelResolver
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.services import JobRunner
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory

REGISTRY_FILE = "gateway.db"
"""In the data folder: the registry with the runs and the journal of the jobs."""
OPENAI_TARGETS = frozenset({"openai", "azure"})
"""Targets that train OpenAI's base models under their own names."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,200}")


class UpstreamBaseModels(BaseModels):
    """The base models of a provider; which names it has is found out when a job is created there.

    Args:
        profile: The provider's profile.
        default_model: The base model for jobs and chats that name one of OpenAI's, unless the provider has those.
    """

    def __init__(self, profile: Profile, default_model: str) -> None:
        super().__init__(Path(), substitutes=profile.target not in OPENAI_TARGETS)
        self._default_model = default_model
        self._substitutes_openai = profile.target not in OPENAI_TARGETS

    def is_known(self, name: str) -> bool:
        """True for every name that a base model can have and that is not substituted."""
        return _NAME.fullmatch(name) is not None and self.substitute_for(name) is None

    def substitute_for(self, name: str) -> str | None:
        """The default base model for an OpenAI name at a provider that does not have it."""
        return self._default_model if self._substitutes_openai and is_hosted_base(name) else None

    def names(self) -> tuple[str, ...]:
        """The default base model, and OpenAI's names, which stand for it or are the provider's own."""
        return tuple(dict.fromkeys((self._default_model, *LISTED_OPENAI_MODELS)))


@dataclass(frozen=True, kw_only=True)
class ProviderUpstream:
    """A provider behind the server's API.

    Attributes:
        profile: The provider's profile.
        open_provider: Opens it; each thread has its own.
        default_model: The base model for jobs that name one of OpenAI's.
        limits: What jobs may cost.
        key: The provider's key, which no message may show.
        prices: The user's price rows.
        named: Routes of the command line, which come first.
        start_validation: Starts the check of a job's files; in a process with limits if ``None``.
    """

    profile: Profile
    open_provider: Callable[[], Provider]
    default_model: str
    limits: JobLimits
    key: str
    prices: Mapping[str, Any] = field(default_factory=dict)
    named: ModelRoutes | None = None
    start_validation: StartValidation | None = None

    @property
    def base_models(self) -> BaseModels:
        """The base models of the provider."""
        return UpstreamBaseModels(self.profile, self.default_model)

    def runner(
        self,
        store: Store,
        data_dir: DataDirectory,
        settings: ServeSettings,
        graders: GraderRequests,  # noqa: ARG002  # as in Upstream; graders run at the provider
    ) -> JobRunner:
        """The thread that creates and polls the jobs there."""
        return UpstreamSupervisor(
            store,
            data_dir,
            settings,
            registry=open_registry(data_dir.root / REGISTRY_FILE),
            open_provider=self.open_provider,
            limits=self.limits,
            key=self.key,
            start_validation=self.start_validation
            or partial(ValidationProcess, command=check_command(self.profile.target, self.prices)),
        )

    def routes(self, store: Store, models: ModelResolver) -> ModelRoutes:
        """The routes of the chats: with the default base model, and with the models that were trained there."""
        return UpstreamRoutes(store, models, self.open_provider, self.default_model, named=self.named)
