"""Opens Together, from its profile and the environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import openai

from ftpipe.providers.address import origin_of, required_key, required_url
from ftpipe.providers.client import ApiClient, build_client
from ftpipe.providers.openai import without_credentials
from ftpipe.providers.profiles import Profile, builtin_profiles
from ftpipe.providers.provider import Provider
from ftpipe.providers.retry import SAFE_ATTEMPTS
from ftpipe.providers.together.deployments import TogetherDeployments
from ftpipe.providers.together.files import TogetherFiles
from ftpipe.providers.together.jobs import TogetherJobs
from ftpipe.providers.together.models import TogetherModels

DEDICATED_CHAT_URL = "https://api-inference.together.ai/v1"
"""Where deployments answer. Source: docs.together.ai, dedicated endpoints, 2026-08."""
PROJECT_VARIABLE = "TOGETHER_PROJECT_ID"
"""The project of deployments, for keys that belong to several. Source: ``together`` 3.1.1."""


def open_together(
    profile: Profile,
    env: Mapping[str, str],
    *,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = SAFE_ATTEMPTS,
) -> Provider:
    """Open Together with its key from the environment.

    Args:
        profile: Its profile.
        env: Environment variables; a key comes from nowhere else.
        sleep: Waits between attempts.
        attempts: How often a call that changes nothing is tried.

    Raises:
        ConfigError: No base URL is known.
        AuthenticationError: The key's variable is not set.
    """
    base_url = required_url(profile, env).rstrip("/")
    key = required_key(profile, env)
    root = base_url.removesuffix("/v1")
    # routes of three versions hang below one root; another host than Together's answers for deployments itself
    is_together = origin_of(base_url) == origin_of(builtin_profiles()["together"]["base_url"])
    api = api_client(profile, root, key, sleep, attempts)
    chat = api_client(profile, f"{root}/v1", key, sleep, attempts)
    dedicated = api_client(profile, DEDICATED_CHAT_URL if is_together else f"{root}/v1", key, sleep, attempts)
    public_url = without_credentials(base_url)
    project = env.get(PROJECT_VARIABLE, "")
    endpoint = public_url + (f"#{project}" if project else "")
    deployments = TogetherDeployments(api, endpoint=endpoint, project=project, sleep=sleep)
    jobs = TogetherJobs(api, endpoint=endpoint, deployments=deployments)
    return Provider(
        profile,
        api,
        endpoint=endpoint,
        files=TogetherFiles(api),
        jobs=jobs,
        models=TogetherModels(api, chat=chat, dedicated=dedicated, jobs=jobs, deployments=deployments),
        deployments=deployments,
        other_apis=(chat, dedicated),
    )


def api_client(profile: Profile, base_url: str, key: str, sleep: Callable[[float], None], attempts: int) -> ApiClient:
    """What calls one of Together's addresses."""

    def connect() -> openai.OpenAI:
        return build_client(
            base_url=base_url,
            api_key=key,
            timeout=profile.request_timeout_seconds,
            user_agent="ftpipe",
        )

    return ApiClient(profile, connect, base_url=without_credentials(base_url), sleep=sleep, attempts=attempts)
