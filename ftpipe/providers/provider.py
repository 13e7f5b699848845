"""A host, ready to be called: its files, jobs, models and deployments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ftpipe.errors import RequestRefusedError
from ftpipe.providers.account import AccountReader
from ftpipe.providers.batches import BatchesClient
from ftpipe.providers.client import ApiClient
from ftpipe.providers.interface import Deployments, Files, Jobs, Models, Uploads
from ftpipe.providers.profiles import Profile


class Provider:
    """A host, built from the parts that implement its API.

    Args:
        profile: How it differs from others.
        api: Makes its calls.
        endpoint: Fingerprint for which ids are valid: base URL, organization and project, never the key. The default
            is the base URL.
        files: Its dataset files.
        jobs: Its fine-tuning jobs.
        models: Its models, and chat.
        uploads: Its uploads in parts; ``None`` if it has none that continue after a crash.
        deployments: What serves its tuned models for a price per hour; ``None`` if nothing is deployed there.
        batches: Its batches; ``None`` if it has none.
        account: Everything that the key can see, as the host sends it, for backups; ``None`` if it has another API.
        other_apis: Makes the calls to further addresses of the host, for example for chat.
    """

    def __init__(
        self,
        profile: Profile,
        api: ApiClient,
        *,
        files: Files,
        jobs: Jobs,
        models: Models,
        endpoint: str = "",
        uploads: Uploads | None = None,
        deployments: Deployments | None = None,
        batches: BatchesClient | None = None,
        account: AccountReader | None = None,
        other_apis: tuple[ApiClient, ...] = (),
    ) -> None:
        self.profile = profile
        self.endpoint = endpoint or default_endpoint(api)
        self.base_url = api.base_url
        self.files = files
        self.uploads = uploads
        self.jobs = jobs
        self.models = models
        self.deployments = deployments
        self.batches = batches
        self._account = account
        self._apis = (api, *other_apis)

    @property
    def account(self) -> AccountReader:
        """Everything that the key can see, as the host sends it.

        Raises:
            RequestRefusedError: The host has another API than OpenAI's.
        """
        if self._account is None:
            title = self.profile.title or self.profile.name
            raise RequestRefusedError(
                f"{title} has an API of its own, and backups are made of hosts with the OpenAI API",
                "`ftpipe models download` gets the weights of a model",
            )
        return self._account

    def on_retry(self, callback: Callable[[str], None]) -> None:
        """Set what is called when a call has failed and is tried again: once until a call succeeds again."""
        for api in self._apis:
            api.on_retry = callback

    @contextmanager
    def in_run(self, timeout: float | None) -> Iterator[None]:
        """A block whose calls are steps of a run, with seconds for those that change nothing; see ``ApiClient``."""
        with ExitStack() as stack:
            for api in self._apis:
                stack.enter_context(api.in_run(timeout))
            yield

    def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        for api in self._apis:
            api.close()


def default_endpoint(api: ApiClient) -> str:
    """The fingerprint of an endpoint that is known by its base URL alone."""
    return api.base_url.rstrip("/")
