"""What the pages of one owner show: a registry, the endpoints that it knows, and commands in the background."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ftpipe.config import Settings
from ftpipe.errors import FtpipeError
from ftpipe.providers import Profile, find_profile, open_provider
from ftpipe.providers.provider import Provider
from ftpipe.records import Model
from ftpipe.registry import Registry
from ftpipe.ui.answers.conversations import Conversations
from ftpipe.ui.answers.feedback import FeedbackFiles
from ftpipe.ui.background import BackgroundCommands
from ftpipe.ui.curves import CurveCache
from ftpipe.ui.datasets.project_datasets import ProjectDatasets
from ftpipe.ui.datasets.token_losses import Ids, LossModel
from ftpipe.ui.grader_files import GraderFiles
from ftpipe.ui.job_watcher import JobWatcher
from ftpipe.ui.run_view import SummaryCache

LOCAL_PROVIDER = "local"


class Endpoints:
    """Opens the providers of a configuration, and keeps them open.

    Args:
        settings: The configuration.
        env: Environment variables with the keys.
    """

    def __init__(self, settings: Settings, env: Mapping[str, str]) -> None:
        self._profiles = settings.config.providers
        self._env = env
        self._open: dict[str, Provider] = {}
        self._lock = threading.Lock()

    def profile(self, name: str) -> Profile:
        """The profile of a provider.

        Raises:
            ConfigError: There is no such provider.
        """
        return find_profile(name, self._profiles)

    def title(self, name: str) -> str:
        """A provider's title; its name if the configuration does not know it any more."""
        if name == LOCAL_PROVIDER:
            return "this machine"
        try:
            return self.profile(name).title or name
        except FtpipeError:
            return name

    def open(self, name: str, *, start: bool = False) -> Provider:
        """Open a provider.

        Args:
            name: Its name.
            start: Whether to start the embedded server if it does not run.

        Raises:
            FtpipeError: There is no such provider, no key for it, or the embedded server does not run.
        """
        with self._lock:
            if name not in self._open or start:
                self._open[name] = open_provider(name, profiles=self._profiles, env=self._env, start=start)
            return self._open[name]

    def forget(self, name: str) -> None:
        """Close a provider after an error: an embedded server that was started again has another address."""
        with self._lock:
            provider = self._open.pop(name, None)
        if provider is not None:
            provider.close()

    def close(self) -> None:
        """Close all of them."""
        for name in list(self._open):
            self.forget(name)


@dataclass(frozen=True, kw_only=True)
class Project:
    """Everything that the pages of one owner need."""

    owner: str
    folder: Path
    """Working folder of commands."""
    state_dir: Path
    """The project's state folder."""
    settings: Settings
    registry: Registry
    endpoints: Endpoints
    commands: BackgroundCommands
    watcher: JobWatcher
    curves: CurveCache
    summaries: SummaryCache = field(default_factory=SummaryCache)

    @cached_property
    def datasets(self) -> ProjectDatasets:
        """Its datasets."""
        answer_files = (self.feedback.answers, self.feedback.preferences)
        return ProjectDatasets(
            self.folder,
            self.state_dir,
            self.settings,
            self.registry,
            answer_files=answer_files,
            token_logprobs=self._token_logprobs,
        )

    def _token_logprobs(self, model: LossModel, ids: Ids) -> list[float | None]:
        return self.endpoints.open(model.provider, start=True).models.token_logprobs(model.name, ids)

    @property
    def graders(self) -> GraderFiles:
        """Its files with graders."""
        return GraderFiles(self.folder)

    @cached_property
    def conversations(self) -> Conversations:
        """Conversations with its models."""
        return Conversations(lambda name: self.endpoints.open(name, start=True).models.stream)

    @property
    def default_provider(self) -> str:
        """Where models are that the registry does not know."""
        return self.settings.config.provider or LOCAL_PROVIDER

    def chat_names(self, model: Model) -> list[str]:
        """A model, and its base if that is asked at the same provider."""
        return [model.id, *([model.base] if model.provider == self.default_provider else [])]

    @cached_property
    def feedback(self) -> FeedbackFiles:
        """What people think of answers."""
        return FeedbackFiles(self.state_dir)

    def close(self) -> None:
        """Stop reading jobs, and close what was opened; commands in the background go on."""
        self.watcher.close()
        self.datasets.close()
        self.endpoints.close()
        self.registry.close()
