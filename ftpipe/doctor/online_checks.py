"""The checks of ``ftpipe doctor --online``: clock, API key permissions, training access, shutdown dates."""

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
from ftpipe.errors import (
    AuthenticationError,
    ConfigError,
    FtpipeError,
    NotFoundError,
    RequestRefusedError,
    TrainingNotAvailableError,
)
from ftpipe.formatting import plural
from ftpipe.providers.deadlines import days_left, is_closed, models_text, new_jobs_text, shutdown_text
from ftpipe.providers.profiles import Profile
from ftpipe.records import Job

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

MAX_CLOCK_SKEW_SECONDS = 120.0
"""Difference of clocks from which times in lists and logs are misleading."""
MAX_ATTEMPTS = 2
"""Attempts per call: fewer than elsewhere, because a check should not wait for an endpoint."""


def run_online_checks(
    settings: Settings, name: str, env: dict[str, str], *, today: date | None = None
) -> Iterator[CheckResult]:
    """Check whether the provider responds, and whether it accepts the key and jobs.

    Args:
        settings: The configuration.
        name: The provider's name.
        env: Environment variables, with the secrets of ``.env``.
        today: Date in UTC.
    """
    from ftpipe.providers import find_profile, open_provider
    from ftpipe.providers.address import find_address, require_trusted

    profile = find_profile(name, settings.config.providers)
    try:
        address = find_address(name, settings.config.providers, env)
        if address is not None:
            require_trusted(address, env)
    except ConfigError as error:
        yield CheckResult(f"{name} connection", "error", error.message, error.hint)
        return
    if address is not None:
        clock = check_clock(name, address.url)
        yield clock
        if clock.status == "error":
            return

    def check() -> Iterator[CheckResult]:
        provider = open_provider(name, profiles=settings.config.providers, env=env, attempts=MAX_ATTEMPTS)
        with contextlib.closing(provider):
            model = settings.config.model or profile.default_model
            yield from authenticated_checks(provider, model, today or datetime.now(UTC).date())

    yield from errors_as_results(name, check)


def authenticated_checks(provider: Provider, model: str, today: date) -> Iterator[CheckResult]:
    """All checks that need the API key."""
    name = provider.profile.name
    jobs: list[Job] = []
    calls: dict[str, Callable[[], object]] = {
        "files": lambda: provider.files.find(filename="", size=0),
        "jobs": lambda: jobs.extend(provider.jobs.recent()),
        "models": provider.models.names,
    }
    errors = {resource: error for resource, call in calls.items() if (error := _error_of(call))}
    yield check_key_permissions(name, provider.profile.key_env, errors)
    if len(errors) == len(calls):
        return
    if "jobs" not in errors:
        latest = max(jobs, key=lambda job: job.created_at, default=None)
        message = f"{plural(len(jobs), 'job')}, the latest is {latest.id}, {latest.status}" if latest else "no job yet"
        yield CheckResult(f"{name} jobs", "ok", message)
    if provider.profile.paid:
        yield check_training(provider, model, jobs, today)
        yield check_base_model(provider, model, today)


def _error_of(call: Callable[[], object]) -> FtpipeError | None:
    try:
        call()
    except FtpipeError as error:
        return error
    return None


def check_key_permissions(name: str, key_env: str, errors: dict[str, FtpipeError]) -> CheckResult:
    """What the key can read: files and jobs are needed, models only for chat and shutdown dates."""
    if not errors:
        return CheckResult(f"{name} key", "ok", "accepted; files, jobs and models can be read")
    first = next(iter(errors.values()))
    failures = "; ".join(f"{resource}: {error.message}" for resource, error in errors.items())
    allowed = [resource for resource in ("files", "jobs", "models") if resource not in errors]
    message = f"{', '.join(allowed)} can be read, but {failures}" if allowed else first.message
    status: CheckStatus = "warning" if set(errors) == {"models"} else "error"
    is_key = all(isinstance(error, AuthenticationError) for error in errors.values())
    hint = f"give the key in {key_env} permission for files, fine-tuning and models" if is_key and allowed else ""
    return CheckResult(f"{name} key", status, message, hint or first.hint)


def check_training(provider: Provider, model: str, jobs: list[Job], today: date) -> CheckResult:
    """Whether a job would be accepted, as far as that can be known without creating one."""
    profile, name = provider.profile, f"{provider.profile.name} training"
    if (closed := training_closed(profile, today)) is not None:
        return closed
    until = f", until {profile.last_day_to_create}" if profile.last_day_to_create else ""
    try:
        permission = provider.jobs.check_can_create(model)
    except (TrainingNotAvailableError, AuthenticationError) as error:
        return CheckResult(name, "error", f"not allowed: {error.message}", error.hint)
    except (NotFoundError, RequestRefusedError) as error:
        return CheckResult(name, "error", error.message, error.hint)
    if permission.allowed:
        probed = "a job with a file that does not exist was rejected only because of the file"
        return CheckResult(name, "ok", f"allowed{until}: {probed if profile.probe_training else permission.why}")
    last = max((job.created_at for job in jobs), default=None)
    latest = f"the latest job of this key was created on {_day(last)}" if last else "this key has no jobs yet"
    who = "; only organizations that have trained before are accepted" if profile.new_customers is False else ""
    hint = "trying costs nothing: `ftpipe train` reports a rejection before anything is paid"
    return CheckResult(name, "warning", f"not known ({permission.why}){until}: {latest}{who}", hint)


def training_closed(profile: Profile, today: date) -> CheckResult | None:
    """The result if the provider's last day for new jobs is over."""
    if not is_closed(profile, today):
        return None
    hint = "train on this machine (--provider local), or with another provider"
    text = new_jobs_text(profile.last_day_to_create, today)
    return CheckResult(f"{profile.name} training", "error", f"{text}; {models_text(profile, today)}", hint)


def check_base_model(provider: Provider, model: str, today: date) -> CheckResult:
    """When the base model, and with it every model tuned from it, is shut down."""
    name = f"{provider.profile.name} base"
    try:
        reported = provider.models.shutdown_date(model)
    except FtpipeError:
        reported = None
    day = reported or provider.profile.models_shutdown_date
    if not day:
        return CheckResult(name, "ok", f"{model}: no shutdown date is known")
    left = days_left(day, today)
    text = f"{model} {shutdown_text(day, today)} ({'the endpoint says' if reported else 'as ftpipe knows'})"
    if left is not None and left < 0:
        return CheckResult(name, "error", text, "choose another base with --model")
    is_near = left is None or left <= DATE_WARNING_DAYS
    hint = "models tuned from it are shut down on the same day" if is_near else ""
    return CheckResult(name, "warning" if is_near else "ok", text, hint)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def check_clock(name: str, base_url: str, *, now: Callable[[], float] = time.time) -> CheckResult:
    """Compare this machine's clock with the Date header of the endpoint's response."""
    address = base_url.rstrip("/") + "/models"
    if not address.startswith(("https://", "http://")):
        return CheckResult(f"{name} connection", "error", f"{address} is not an http(s) URL", "correct base_url")
    try:
        with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310 - the scheme was checked
            stamp = response.headers.get("Date")
    except urllib.error.HTTPError as error_response:
        stamp = error_response.headers.get("Date")
        error_response.close()
    except OSError as error:
        return CheckResult(
            f"{name} connection",
            "error",
            f"{address} cannot be reached: {error}",
            "check the network and proxy settings",
        )
    try:
        skew = now() - parsedate_to_datetime(stamp or "").timestamp()
    except ValueError:
        return CheckResult(f"{name} clock", "warning", "the endpoint does not report its time")
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        return CheckResult(
            f"{name} clock", "warning", f"this machine's clock is off by {skew:+.0f} s", "set the clock (NTP)"
        )
    return CheckResult(f"{name} clock", "ok", "this machine's clock agrees with the endpoint's")
