"""An endpoint, ready to be called: its files, jobs and models over one client."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ftpipe.providers.account import AccountReader
from ftpipe.providers.batches import BatchesClient
from ftpipe.providers.client import ApiClient
from ftpipe.providers.files import FilesClient
from ftpipe.providers.jobs import JobsClient
from ftpipe.providers.models import ModelsClient
from ftpipe.providers.profiles import Profile


class Provider:
    """An endpoint that speaks the OpenAI fine-tuning API.

    Args:
        profile: How it differs from others.
        api: Makes its calls.
        endpoint: Fingerprint for which ids are valid: base URL, organization and project, never the key. The default
            is the base URL.

    Attributes:
        files: ``/files`` and ``/uploads``.
        jobs: ``/fine_tuning/jobs``.
        models: ``/models`` and ``/chat/completions``.
        batches: ``/batches``; ``None`` if the endpoint has none.
        account: Everything that the key can see, for backups.
    """

    def __init__(self, profile: Profile, api: ApiClient, *, endpoint: str = "") -> None:
        self.profile = profile
        self.endpoint = endpoint or api.base_url.rstrip("/")
        self.base_url = api.base_url
        self.files = FilesClient(api)
        self.jobs = JobsClient(api, endpoint=self.endpoint)
        self.models = ModelsClient(api)
        self.batches = BatchesClient(api) if profile.batch_api else None
        self.account = AccountReader(api, endpoint=self.endpoint)
        self._api = api

    def on_retry(self, callback: Callable[[str], None]) -> None:
        """Set what is called when a call has failed and is tried again: once until a call succeeds again."""
        self._api.on_retry = callback

    def in_run(self, timeout: float | None) -> AbstractContextManager[None]:
        """A block whose calls are steps of a run, with seconds for those that change nothing; see ``ApiClient``."""
        return self._api.in_run(timeout)

    def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        self._api.close()
