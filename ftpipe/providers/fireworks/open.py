"""Opens Fireworks with its key and account from the environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import openai

from ftpipe.providers.address import required_key, required_url
from ftpipe.providers.client import ApiClient, build_client
from ftpipe.providers.fireworks.api import INFERENCE_PATH, FireworksApi
from ftpipe.providers.fireworks.datasets import FireworksFiles
from ftpipe.providers.fireworks.deployments import FireworksDeployments
from ftpipe.providers.fireworks.jobs import FireworksJobs
from ftpipe.providers.fireworks.models import FireworksModels
from ftpipe.providers.openai import without_credentials
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider
from ftpipe.providers.retry import SAFE_ATTEMPTS

ACCOUNT_VARIABLE = "FIREWORKS_ACCOUNT_ID"
"""Id of the account, if the key belongs to several."""


def open_fireworks(
    profile: Profile,
    env: Mapping[str, str],
    *,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = SAFE_ATTEMPTS,
) -> Provider:
    """Open Fireworks; the account of the key is asked for at the first call unless it is configured.

    Args:
        profile: Its profile.
        env: Environment variables; a key comes from nowhere else.
        sleep: Waits between attempts.
        attempts: How often a call that changes nothing is tried.

    Raises:
        ConfigError: No base URL is known.
        AuthenticationError: The key's variable is not set.
    """
    base_url = required_url(profile, env).rstrip("/").removesuffix(INFERENCE_PATH)
    key = required_key(profile, env)
    account = env.get(ACCOUNT_VARIABLE, "").removeprefix("accounts/")

    def connect() -> openai.OpenAI:
        return build_client(base_url=base_url + INFERENCE_PATH, api_key=key, timeout=profile.request_timeout_seconds)

    public_url = without_credentials(base_url).rstrip("/")
    endpoint = public_url + (f"#{account}" if account else "")
    api = ApiClient(profile, connect, base_url=public_url, sleep=sleep, attempts=attempts)
    fireworks = FireworksApi(api, account=account)
    models = FireworksModels(fireworks)
    jobs = FireworksJobs(fireworks, models, endpoint=endpoint)
    return Provider(
        profile,
        api,
        endpoint=endpoint,
        files=FireworksFiles(fireworks),
        jobs=jobs,
        models=models,
        deployments=FireworksDeployments(fireworks, models, endpoint=endpoint),
    )
