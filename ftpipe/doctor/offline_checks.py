"""What ``ftpipe doctor`` looks at without a network: programs, files, database, disk, tokenizer, prices, dates."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftpipe.config import Settings
from ftpipe.errors import FtpipeError
from ftpipe.formatting import format_bytes, plural
from ftpipe.paths import home, server_dir, state_dir

if TYPE_CHECKING:
    from ftpipe.providers.profiles import Profile
    from ftpipe.registry import Registry

CheckStatus = Literal["ok", "warn", "bad"]
LOW_DISK_BYTES, MIN_DISK_BYTES = 2_000_000_000, 200_000_000
"""Free bytes below which a base model may not fit, and below which nothing should be begun."""
DATE_WARNING_DAYS = 90
CORE_PACKAGES = ("openai", "SQLAlchemy", "tiktoken", "pydantic", "click", "rich", "tenacity", "orjson")
LOCAL_PACKAGES = ("torch", "transformers", "peft", "starlette", "uvicorn")


@dataclass(frozen=True)
class CheckResult:
    """One line of the doctor: what was looked at, how it is, and what to do."""

    name: str
    status: CheckStatus
    message: str
    hint: str = ""


def run_offline_checks(
    settings: Settings, registry: Callable[[], Registry], today: date | None = None
) -> Iterator[CheckResult]:
    """Everything that can be known offline, a finding at a time.

    Args:
        settings: The configuration.
        registry: Opens the registry.
        today: UTC date.
    """
    day = today or datetime.now(UTC).date()
    yield check_python()
    yield from check_packages()
    yield check_config(settings)
    yield check_secrets_file(Path.cwd())
    yield check_state_folder()
    if settings.config.registry or (state_dir() / "registry.db").exists():
        yield from errors_as_results("registry", lambda: check_registry(registry(), day))
    yield check_disk("disk", state_dir())
    yield check_disk("home", home())
    yield from errors_as_results("tokenizer", check_tokenizer)
    yield from errors_as_results("prices", lambda: check_prices(settings, day))
    yield from errors_as_results("providers", lambda: check_providers(settings, day))
    yield check_local_server()


def errors_as_results(name: str, look: Callable[[], Iterator[CheckResult]]) -> Iterator[CheckResult]:
    """The findings of one examination; an error of the tree is a finding, too."""
    try:
        yield from look()
    except FtpipeError as error:
        yield CheckResult(name, "bad", error.message, error.hint)


def check_python() -> CheckResult:
    """Which Python runs."""
    return CheckResult("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def check_packages() -> Iterator[CheckResult]:
    """The versions of what ftpipe stands on."""
    core = {name: _version(name) for name in CORE_PACKAGES}
    missing = [name for name, version in core.items() if not version]
    text = ", ".join(f"{name} {version}" for name, version in core.items() if version)
    hint = f"pip install {' '.join(missing)}" if missing else ""
    yield CheckResult(
        "packages", "bad" if missing else "ok", f"missing: {', '.join(missing)}" if missing else text, hint
    )
    local = {name: _version(name) for name in LOCAL_PACKAGES}
    absent = [name for name, version in local.items() if not version]
    if absent:
        yield CheckResult(
            "local", "warn", f"not installed: {', '.join(absent)}", "pip install 'ftpipe[local]' to train here"
        )
    else:
        yield CheckResult(
            "local", "ok", ", ".join(f"{name} {version}" for name, version in local.items()) + describe_gpus()
        )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def describe_gpus() -> str:
    """The graphics cards that the system reports, for the line about torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return f", {os.cpu_count()} processors, no NVIDIA card"
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ", nvidia-smi does not answer"
    return ", " + "; ".join(asked.stdout.split("\n")[:8]).strip("; ") if asked.stdout.strip() else ", no NVIDIA card"


def check_config(settings: Settings) -> CheckResult:
    """Which configuration is in force."""
    if settings.path is None:
        return CheckResult("config", "ok", "no ftpipe.toml here: the defaults are in force")
    return CheckResult("config", "ok", f"{settings.path}, {plural(len(settings.origins), 'value')} set")


def check_secrets_file(folder: Path) -> CheckResult:
    """Whether ``.env`` is kept out of git and away from other users."""
    path = folder / ".env"
    if not path.is_file():
        return CheckResult("secrets", "ok", "no .env here")
    if _is_tracked(path):
        return CheckResult(
            "secrets", "bad", ".env is tracked by git", "git rm --cached .env, and replace the keys in it"
        )
    if path.stat().st_mode & 0o077:
        return CheckResult("secrets", "warn", ".env can be read by other users of this machine", "chmod 600 .env")
    return CheckResult("secrets", "ok", ".env is there, not tracked, and yours alone")


def _is_tracked(path: Path) -> bool:
    git = shutil.which("git")
    command = [git or "git", "ls-files", "--error-unmatch", path.name]
    return bool(git) and subprocess.run(command, cwd=path.parent, capture_output=True, check=False).returncode == 0


def check_state_folder() -> CheckResult:
    """Whether runs can be remembered here."""
    from ftpipe.registry.database import NETWORK_FILE_SYSTEMS, filesystem_of

    folder = state_dir()
    place = folder if folder.is_dir() else folder.parent
    kind = filesystem_of(place)
    if not os.access(place, os.W_OK):
        return CheckResult("state", "bad", f"{place} cannot be written", "run ftpipe where you may write")
    if kind in NETWORK_FILE_SYSTEMS:
        return CheckResult("state", "bad", f"{place} is on {kind}", "name a local database with FTPIPE_REGISTRY")
    there = "" if folder.is_dir() else " (made at the first run)"
    return CheckResult("state", "ok", f"{folder}{there}" + (f" on {kind}" if kind else ""))


def check_registry(registry: Registry, today: date) -> Iterator[CheckResult]:
    """Whether the database is whole, and which models end soon."""
    models = registry.models.recent()
    runs = registry.runs.recent(10_000)
    place = registry.location.removeprefix("sqlite:///")
    known = f"{plural(len(runs), 'run')}, {plural(len(models), 'model')}"
    yield CheckResult("registry", "ok", f"{place}: whole, {known}")
    yield check_audit_log(registry)
    ends = {m.id: date.fromisoformat(m.base_shutdown_date) for m in models if m.base_shutdown_date}
    soon = sorted((end, name) for name, end in ends.items() if (end - today).days <= DATE_WARNING_DAYS)
    for end, name in soon[:5]:
        state: CheckStatus = "bad" if end < today else "warn"
        when = "has ended" if end < today else f"ends in {(end - today).days} days"
        yield CheckResult(
            "model", state, f"{name} {when}, on {end}", "train it again on another base, or on this machine"
        )
    doubtful = [run for run in runs if run.state in ("prepared", "uploaded")]
    if doubtful:
        yield CheckResult("runs", "warn", f"{plural(len(doubtful), 'run')} did not come to an end", "ftpipe resume")


def check_audit_log(registry: Registry) -> CheckResult:
    """Whether the rows are still those that ftpipe wrote."""
    from ftpipe.registry.verification import verify_registry

    found = next(verify_registry(registry.engine), None)
    if found is not None:
        return CheckResult("audit log", "bad", found.text, "ftpipe models verify names every place")
    return CheckResult("audit log", "ok", f"{plural(registry.audit_log.size(), 'entry', 'entries')}, unbroken")


def check_disk(name: str, folder: Path) -> CheckResult:
    """How much room there is."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < MIN_DISK_BYTES:
        return CheckResult(
            name, "bad", f"{format_bytes(free)} free at {place}", "free some space before anything is begun"
        )
    if free < LOW_DISK_BYTES:
        return CheckResult(
            name, "warn", f"{format_bytes(free)} free at {place}", "a base model and its checkpoints need about 2 GB"
        )
    return CheckResult(name, "ok", f"{format_bytes(free)} free at {place}")


def check_tokenizer() -> Iterator[CheckResult]:
    """Whether tokens can be counted without a network."""
    from ftpipe.tokenization import encoding_for

    name = encoding_for("gpt-4.1-mini-2025-04-14").name
    yield CheckResult("tokenizer", "ok", f"{name} is in the package, no network needed")


def check_prices(settings: Settings, today: date) -> Iterator[CheckResult]:
    """How old the prices are."""
    from ftpipe.catalog.training_prices import PriceTable

    row = PriceTable.load(settings.config.prices).row("gpt-4.1-mini-2025-04-14")
    as_of = getattr(row, "as_of", None)
    if as_of is None:
        yield CheckResult("prices", "warn", "there are none", 'add [prices."MODEL"] to ftpipe.toml')
        return
    age = (today - (as_of if isinstance(as_of, date) else date.fromisoformat(str(as_of)))).days
    state: CheckStatus = "warn" if age > 2 * DATE_WARNING_DAYS else "ok"
    hint = (
        "compare them with the provider's price page; [prices] in ftpipe.toml overrides them" if state == "warn" else ""
    )
    yield CheckResult("prices", state, f"as of {as_of}, {age} days old", hint)


def check_providers(settings: Settings, today: date) -> Iterator[CheckResult]:
    """Which keys are set, and until when each provider takes jobs."""
    from ftpipe.config import secrets
    from ftpipe.providers.profiles import load_profiles

    known = secrets(os.environ)
    for name, profile in load_profiles(settings.config.providers).items():
        if not profile.paid:
            continue
        chosen = settings.config.provider == name
        yield _check_provider(profile, chosen=chosen, has_key=bool(known.get(profile.key_env)), today=today)


def _check_provider(profile: Profile, *, chosen: bool, has_key: bool, today: date) -> CheckResult:
    last, key, name = profile.last_day_to_create, profile.key_env, profile.name
    left = (date.fromisoformat(last) - today).days if last else None
    if left is not None and left < 0:
        return CheckResult(
            name, "bad" if chosen else "warn", f"takes no new jobs since {last}", "train on this machine"
        )
    if not has_key:
        hint = f"put {key}=… into .env or the environment" if chosen else ""
        return CheckResult(name, "bad" if chosen else "ok", f"no key: {key} is not set", hint)
    if left is not None and left <= DATE_WARNING_DAYS:
        who = ", only from organizations that trained before" if profile.new_customers is False else ""
        hint = f"ftpipe doctor --online --provider {name} asks whether yours may"
        return CheckResult(name, "warn", f"{key} is set; takes new jobs until {last}, {left} days from now{who}", hint)
    return CheckResult(name, "ok", f"{key} is set")


def check_local_server() -> CheckResult:
    """Whether the embedded endpoint runs."""
    from ftpipe.server.control import status

    seen = status(server_dir())
    if not seen.running:
        return CheckResult("endpoint", "ok", "not running; `ftpipe train` starts it when needed")
    if not seen.is_responding:
        return CheckResult("endpoint", "warn", f"process {seen.pid} runs but does not answer", "ftpipe serve logs")
    return CheckResult("endpoint", "ok", f"runs at {seen.base_url}, process {seen.pid}")
