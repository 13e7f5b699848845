"""What ``ftpipe doctor --online`` asks an endpoint: time, key and its scope, whether jobs are taken, when bases end."""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ftpipe.config import Settings
from ftpipe.doctor.offline_checks import DATE_WARNING_DAYS, CheckResult, CheckStatus, errors_as_results
from ftpipe.errors import AuthenticationError, FtpipeError, TrainingNotAvailableError
from ftpipe.formatting import plural
from ftpipe.providers.profiles import Profile
from ftpipe.records import Job

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

MAX_CLOCK_SKEW_SECONDS = 120.0
"""Clocks further apart than this make times in lists and logs misleading."""
MAX_ATTEMPTS = 2
"""A doctor looks; it does not wait for an endpoint to get well."""


def run_online_checks(
    settings: Settings, name: str, env: dict[str, str], *, today: date | None = None
) -> Iterator[CheckResult]:
    """What only the provider can tell: whether it answers, takes the key and jobs, and tells the same time.

    Args:
        settings: The configuration.
        name: Which provider.
        env: Environment variables, with the secrets of ``.env``.
        today: UTC date.
    """
    from ftpipe.providers import find_profile, open_provider

    profile = find_profile(name, settings.config.providers)
    base_url = env.get(profile.base_url_env) or profile.base_url
    if base_url:
        clock = check_clock(name, base_url)
        yield clock
        if clock.status == "bad":
            return

    def look() -> Iterator[CheckResult]:
        provider = open_provider(name, profiles=settings.config.providers, env=env, attempts=MAX_ATTEMPTS)
        with contextlib.closing(provider):
            model = settings.config.model or profile.default_model
            yield from authenticated_checks(provider, model, today or datetime.now(UTC).date())

    yield from errors_as_results(name, look)


def authenticated_checks(provider: Provider, model: str, today: date) -> Iterator[CheckResult]:
    """Everything that is asked with the key."""
    name = provider.profile.name
    jobs: list[Job] = []
    calls: dict[str, Callable[[], object]] = {
        "files": lambda: provider.files.find(filename="", size=0),
        "jobs": lambda: jobs.extend(provider.jobs.recent()),
        "models": provider.models.names,
    }
    refused = {what: error for what, call in calls.items() if (error := _refusal(call))}
    yield check_key_permissions(name, provider.profile.key_env, refused)
    if len(refused) == len(calls):
        return
    if "jobs" not in refused:
        latest = max(jobs, key=lambda job: job.created_at, default=None)
        seen = f"{plural(len(jobs), 'job')}, the latest is {latest.id}, {latest.status}" if latest else "no job yet"
        yield CheckResult(f"{name} jobs", "ok", seen)
    if provider.profile.paid:
        yield check_training(provider, model, jobs, today)
        yield check_base_model(provider, model, today)


def _refusal(call: Callable[[], object]) -> FtpipeError | None:
    try:
        call()
    except FtpipeError as error:
        return error
    return None


def check_key_permissions(name: str, key_env: str, refused: dict[str, FtpipeError]) -> CheckResult:
    """What the key may see: files and jobs are needed, models only for chat and last days."""
    if not refused:
        return CheckResult(f"{name} key", "ok", "accepted; files, jobs and models can be read")
    said = "; ".join(f"{what}: {error.message}" for what, error in refused.items())
    allowed = [what for what in ("files", "jobs", "models") if what not in refused]
    text = f"{', '.join(allowed)} can be read, but {said}" if allowed else next(iter(refused.values())).message
    state: CheckStatus = "warn" if set(refused) == {"models"} else "bad"
    is_key = all(isinstance(error, AuthenticationError) for error in refused.values())
    hint = f"give the key in {key_env} permission for files, fine-tuning and models" if is_key and allowed else ""
    return CheckResult(f"{name} key", state, text, hint or next(iter(refused.values())).hint)


def check_training(provider: Provider, model: str, jobs: list[Job], today: date) -> CheckResult:
    """Whether a job would be taken, as far as that can be known before one is created and paid."""
    profile, name = provider.profile, f"{provider.profile.name} training"
    if (closed := training_closed(profile, today)) is not None:
        return closed
    until = f", until {profile.last_day_to_create}" if profile.last_day_to_create else ""
    try:
        heard = provider.jobs.check_can_create(model)
    except (TrainingNotAvailableError, AuthenticationError) as error:
        return CheckResult(name, "bad", f"not allowed: {error.message}", error.hint)
    if heard.allowed:
        return CheckResult(
            name, "ok", f"allowed{until}: a job on a file that does not exist was refused for the file alone"
        )
    last = max((job.created_at for job in jobs), default=None)
    seen = f"the last job that this key sees was taken on {_day(last)}" if last else "this key sees no job yet"
    who = "; only organizations that trained before are taken" if profile.new_customers is False else ""
    hint = "a refusal costs nothing: `ftpipe train` names it before it is paid"
    return CheckResult(name, "warn", f"not known ({heard.why}){until}: {seen}{who}", hint)


def training_closed(profile: Profile, today: date) -> CheckResult | None:
    """The finding where a profile's last day is over."""
    last = profile.last_day_to_create
    if not last or today <= date.fromisoformat(last):
        return None
    hint = "train on this machine (--provider local), or elsewhere"
    return CheckResult(f"{profile.name} training", "bad", f"no new jobs are taken since {last}", hint)


def check_base_model(provider: Provider, model: str, today: date) -> CheckResult:
    """When the base that would be trained ends, and everything made of it."""
    name = f"{provider.profile.name} base"
    try:
        told = provider.models.shutdown_date(model)
    except FtpipeError:
        told = None
    day = told or provider.profile.models_shutdown_date
    if not day:
        return CheckResult(name, "ok", f"{model}: no last day is known")
    left = (date.fromisoformat(day) - today).days
    source = "the endpoint says" if told else "as this ftpipe knows"
    if left < 0:
        return CheckResult(name, "bad", f"{model} has ended on {day}, {source}", "choose another base with --model")
    hint = "what is trained on it ends the same day" if left <= DATE_WARNING_DAYS else ""
    return CheckResult(name, "warn" if hint else "ok", f"{model} answers until {day}, {left} days, {source}", hint)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def check_clock(name: str, base_url: str, *, now: Callable[[], float] = time.time) -> CheckResult:
    """How far this machine's clock is from the endpoint's, by the Date header of any answer."""
    address = base_url.rstrip("/") + "/models"
    if not address.startswith(("https://", "http://")):
        return CheckResult(f"{name} clock", "bad", f"{address} is no web address", "correct base_url")
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - the scheme was looked at
            stamp = answer.headers.get("Date")
    except urllib.error.HTTPError as refusal:
        stamp = refusal.headers.get("Date")
        refusal.close()
    except OSError as error:
        return CheckResult(
            f"{name} clock", "bad", f"{address} was not reached: {error}", "check the network and proxies"
        )
    try:
        skew = now() - parsedate_to_datetime(stamp or "").timestamp()
    except ValueError:
        return CheckResult(f"{name} clock", "warn", "the endpoint does not tell its time")
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        return CheckResult(f"{name} clock", "warn", f"this machine's clock is {skew:+.0f} s off", "set the clock (NTP)")
    return CheckResult(f"{name} clock", "ok", "this machine and the endpoint agree on the time")
