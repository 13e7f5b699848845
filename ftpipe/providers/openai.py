"""Opens an endpoint with the OpenAI API, from its profile and the environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

import openai

from ftpipe.providers.account import AccountReader
from ftpipe.providers.address import required_key, required_url
from ftpipe.providers.batches import BatchesClient
from ftpipe.providers.client import ApiClient, build_client
from ftpipe.providers.files import FilesClient, UploadsClient
from ftpipe.providers.jobs import JobsClient
from ftpipe.providers.models import ModelsClient
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider, default_endpoint
from ftpipe.providers.retry import SAFE_ATTEMPTS


def open_openai(
    profile: Profile,
    env: Mapping[str, str],
    *,
    client: openai.OpenAI | None = None,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = SAFE_ATTEMPTS,
) -> Provider:
    """Open an endpoint with its key from the environment.

    Args:
        profile: The endpoint's profile.
        env: Environment variables; a key comes from nowhere else.
        client: A client to use instead of a new one, for tests.
        sleep: Waits between attempts.
        attempts: How often a call that changes nothing is tried.

    Raises:
        ConfigError: No base URL is known.
        AuthenticationError: The key's variable is not set.
    """
    base_url = required_url(profile, env)
    key = required_key(profile, env) if profile.key_env and client is None else "none"
    is_openai = profile.key_env == "OPENAI_API_KEY"
    organization, project = (env.get("OPENAI_ORG_ID"), env.get("OPENAI_PROJECT_ID")) if is_openai else (None, None)
    timeout = profile.request_timeout_seconds

    def connect() -> openai.OpenAI:
        return client or build_client(
            base_url=base_url,
            api_key=(lambda: env.get(profile.key_env) or key) if profile.key_expires else key,
            timeout=timeout,
            organization=organization,
            project=project,
            has_custom_headers=is_openai,
        )

    scope = "/".join(part for part in (organization, project) if part)
    public_url = without_credentials(base_url)
    endpoint = public_url.rstrip("/") + (f"#{scope}" if scope else "")
    api = ApiClient(profile, connect, base_url=public_url, sleep=sleep, attempts=attempts)
    return openai_provider(profile, api, endpoint=endpoint)


def openai_provider(profile: Profile, api: ApiClient, *, endpoint: str = "") -> Provider:
    """A provider whose parts speak the OpenAI API."""
    endpoint = endpoint or default_endpoint(api)
    return Provider(
        profile,
        api,
        endpoint=endpoint,
        files=FilesClient(api),
        uploads=UploadsClient(api) if profile.uploads_api else None,
        jobs=JobsClient(api, endpoint=endpoint),
        models=ModelsClient(api),
        batches=BatchesClient(api) if profile.batch_api else None,
        account=AccountReader(api, endpoint=endpoint),
    )


def without_credentials(base_url: str) -> str:
    """A base URL without user, password and query, so that it can be stored and shown."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))
