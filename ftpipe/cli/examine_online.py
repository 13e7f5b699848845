"""What ``ftpipe doctor --online`` asks an endpoint: does it answer, takes it the key, agrees it on the time."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime

from ftpipe.cli.examine import Finding, guarded
from ftpipe.config import Settings
from ftpipe.reports.plain import plural

SKEW_SECONDS = 120.0
"""Clocks further apart than this make times in lists and logs misleading."""


def examine_online(settings: Settings, name: str, env: dict[str, str]) -> Iterator[Finding]:
    """What only the provider can tell: whether it answers, takes the key, tells the same time, and trains."""
    from ftpipe.providers import find_profile, open_provider

    profile = find_profile(name, settings.config.providers)
    base_url = env.get(profile.base_url_env) or profile.base_url
    if base_url:
        yield clock_of(name, base_url)

    def look() -> Iterator[Finding]:
        provider = open_provider(name, profiles=settings.config.providers, env=env)
        names = provider.models.names()
        yield Finding(f"{name} key", "ok", f"accepted; {plural(len(names), 'model')} can be used")
        jobs = next(iter(provider.jobs.recent()), None)
        seen = f"the latest job is {jobs.id}, {jobs.status}" if jobs else "no job was made yet"
        yield Finding(f"{name} jobs", "ok", seen)
        if profile.paid:
            yield Finding(
                f"{name} training",
                "warn",
                "whether this organization may train is only told when a job is created",
                "a refusal costs nothing: `ftpipe train` names it",
            )

    yield from guarded(name, look)


def clock_of(name: str, base_url: str, *, now: Callable[[], float] = time.time) -> Finding:
    """How far this machine's clock is from the endpoint's, by the Date header of any answer."""
    address = base_url.rstrip("/") + "/models"
    if not address.startswith(("https://", "http://")):
        return Finding(f"{name} clock", "bad", f"{address} is no web address", "correct base_url")
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - the scheme was looked at
            stamp = answer.headers.get("Date")
    except urllib.error.HTTPError as refusal:
        stamp = refusal.headers.get("Date")
    except OSError as error:
        return Finding(f"{name} clock", "bad", f"{address} was not reached: {error}", "check the network and proxies")
    if not stamp:
        return Finding(f"{name} clock", "warn", "the endpoint does not tell its time")
    skew = now() - parsedate_to_datetime(stamp).timestamp()
    if abs(skew) > SKEW_SECONDS:
        return Finding(f"{name} clock", "warn", f"this machine's clock is {skew:+.0f} s off", "set the clock (NTP)")
    return Finding(f"{name} clock", "ok", "this machine and the endpoint agree on the time")
