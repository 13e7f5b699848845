"""Send an export to the Hugging Face hub, with the token of ``HF_TOKEN`` or ``hf auth login``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.errors import AuthenticationError, ConnectionFailedError, MissingExtraError, RequestRefusedError, UsageError

PUBLIC_HUB = "https://huggingface.co"
LOGIN_HINT = "run `hf auth login`, or set HF_TOKEN to a token that can write; make one at {}/settings/tokens"


@dataclass(frozen=True)
class HubTarget:
    """A repository that an export is sent to.

    Attributes:
        endpoint: Address of the hub.
        repository: ``org/name``.
        account: Account of the token.
        exists: Whether the repository is there already; a new commit then replaces files of the same name.
        private: Whether only the account, or its organization, can see it.
    """

    endpoint: str
    repository: str
    account: str
    exists: bool
    private: bool

    @property
    def url(self) -> str:
        """Address of the repository's page."""
        return f"{self.endpoint}/{self.repository}"

    @property
    def description(self) -> str:
        """Name and visibility, for plans and questions."""
        kind = "private" if self.private else "PUBLIC"
        return f"the {kind} repository {self.url} ({'exists' if self.exists else 'new'}), as {self.account}"


class Hub:
    """The hub's API.

    Args:
        env: Environment variables: ``HF_TOKEN`` and ``HF_ENDPOINT``.

    Raises:
        AuthenticationError: There is no token.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as exc:
            raise MissingExtraError("the hub needs the local extra", "pip install 'ftpipe[local]'") from exc
        self._endpoint = env.get("HF_ENDPOINT", PUBLIC_HUB).rstrip("/")
        token = env.get("HF_TOKEN") or get_token()
        if not token:
            raise AuthenticationError("there is no token for the Hugging Face hub", LOGIN_HINT.format(self._endpoint))
        self._api: Any = HfApi(endpoint=self._endpoint, token=token)

    def find_target(self, repository: str, *, public: bool) -> HubTarget:
        """Look up account and repository; nothing is changed.

        Raises:
            UsageError: ``repository`` is not an id, or public although that was not asked for.
            AuthenticationError: The hub rejects the token.
            ConnectionFailedError: The hub cannot be reached.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]{1,96}", repository):
            raise UsageError(f"{repository!r} is not the name of a repository", "give it as ORG/NAME")
        with self._errors("nothing was sent"):
            account = str(self._api.whoami()["name"])
            try:
                info = self._api.model_info(repository)
            except RepositoryNotFoundError:
                return HubTarget(self._endpoint, repository, account, exists=False, private=not public)
        is_private = bool(info.private)
        if not is_private and not public:
            raise UsageError(
                f"the repository {self._endpoint}/{repository} exists and is public",
                "add --public to send the model there, or choose another name",
            )
        return HubTarget(self._endpoint, repository, account, exists=True, private=is_private)

    def upload(self, folder: Path, target: HubTarget, *, message: str) -> str:
        """Create the repository if it does not exist, and send all files in one commit.

        Returns:
            Address of the commit.

        Raises:
            AuthenticationError: The token cannot write there.
            RequestRefusedError: The hub refuses the files.
            ConnectionFailedError: The hub cannot be reached.
        """
        with self._errors(f"the export is still in {folder}"):
            self._api.create_repo(target.repository, private=target.private, exist_ok=True)
            commit = self._api.upload_folder(repo_id=target.repository, folder_path=folder, commit_message=message)
        return str(commit.commit_url)

    @contextmanager
    def _errors(self, consequence: str) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

        try:
            yield
        except HfHubHTTPError as exc:
            status = exc.response.status_code
            reason = (exc.server_message or str(exc)).splitlines()[0][:200]
            if status in (401, 403):
                raise AuthenticationError(
                    f"the hub rejected the token ({status}): {reason}; {consequence}", LOGIN_HINT.format(self._endpoint)
                ) from exc
            raise RequestRefusedError(
                f"the hub refused the request ({status}): {reason}; {consequence}", "run the command again"
            ) from exc
        except (HTTPError, OSError) as exc:
            raise ConnectionFailedError(
                f"{self._endpoint} could not be reached: {str(exc)[:200] or type(exc).__name__}; {consequence}",
                "check the network, and HF_ENDPOINT and HF_HUB_OFFLINE if they are set",
            ) from exc
