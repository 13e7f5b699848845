"""Hosts that fine-tune, with the OpenAI API or one of their own; ``open_provider`` opens one by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftpipe.providers.profiles import Profile, find_profile, load_profiles

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

__all__ = ["Profile", "find_profile", "load_profiles", "open_provider"]


def open_provider(
    name: str,
    *,
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
    env: Mapping[str, str] | None = None,
    start: bool = True,
    attempts: int | None = None,
) -> Provider:
    """Open an endpoint by its name.

    Args:
        name: ``local``, ``openai``, ``azure``, ``nebius``, ``together``, ``fireworks``, ``bedrock``, or a name that
            ``profiles`` adds.
        profiles: The configuration's ``[providers.*]`` tables.
        env: Environment variables, by default ``os.environ``; keys come from nowhere else.
        start: Whether to start the embedded server if it does not run.
        attempts: How often a call that changes nothing is tried at a hosted endpoint, by default six times.

    Raises:
        ConfigError: There is no such provider, no base URL for it, or a base URL that is not trusted.
        AuthenticationError: The key's variable is not set.
        MissingExtraError: The embedded server is not installed.
    """
    from ftpipe.providers.address import find_address, require_trusted

    profile = find_profile(name, profiles)
    variables = os.environ if env is None else env
    address = find_address(name, profiles, variables)
    if address is not None:
        require_trusted(address, variables)
    if profile.name == "local":
        from ftpipe.providers.local import open_local

        return open_local(profile, variables, start=start)
    from ftpipe.providers.retry import SAFE_ATTEMPTS

    if profile.api == "together":
        from ftpipe.providers.together.open import open_together

        return open_together(profile, variables, attempts=attempts or SAFE_ATTEMPTS)
    if profile.api == "fireworks":
        from ftpipe.providers.fireworks.open import open_fireworks

        return open_fireworks(profile, variables, attempts=attempts or SAFE_ATTEMPTS)
    from ftpipe.providers.openai import open_openai

    return open_openai(profile, variables, attempts=attempts or SAFE_ATTEMPTS)
