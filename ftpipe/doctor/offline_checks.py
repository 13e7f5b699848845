"""The checks of ``ftpipe doctor`` that need no network: packages, files, registry, disk, tokenizer, prices, keys."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftpipe.child_environment import child_environment
from ftpipe.config import Settings, registry_in_use
from ftpipe.errors import FtpipeError
from ftpipe.formatting import format_bytes, plural
from ftpipe.paths import default_registry, home, server_dir, state_dir
from ftpipe.providers.deadlines import days_left, is_closed, models_text, new_jobs_text, shutdown_text

if TYPE_CHECKING:
    from ftpipe.providers.profiles import Profile
    from ftpipe.records import Model
    from ftpipe.registry import Registry

CheckStatus = Literal["ok", "warning", "error", "not configured"]
LOW_DISK_BYTES, MIN_DISK_BYTES = 2_000_000_000, 200_000_000
"""Free bytes below which a base model may not fit, and below which nothing should be started."""
DATE_WARNING_DAYS = 90
"""Days before a shutdown date from which it is a warning."""
MAX_NAMED_MODELS = 5
CORE_PACKAGES = ("openai", "SQLAlchemy", "tiktoken", "pydantic", "click", "rich", "tenacity", "orjson")
LOCAL_PACKAGES = ("torch", "transformers", "peft", "starlette", "uvicorn")


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: what was checked, its status, and what to do."""

    name: str
    status: CheckStatus
    message: str
    hint: str = ""


def run_offline_checks(
    settings: Settings, registry: Callable[[], Registry], today: date | None = None
) -> Iterator[CheckResult]:
    """Run all checks that need no network, one result at a time.

    Args:
        settings: The configuration.
        registry: Opens the registry.
        today: Date in UTC.
    """
    day = today or datetime.now(UTC).date()
    yield check_python()
    yield from check_packages()
    yield check_config(settings)
    yield check_secrets_file(Path.cwd())
    yield check_state_folder()
    location, origin = registry_in_use(settings)
    if settings.config.registry or default_registry().exists():
        yield CheckResult("registry", "ok", f"{location} ({origin})")
        yield from errors_as_results("registry", lambda: check_registry(registry(), day))
    else:
        yield CheckResult("registry", "ok", f"{location} ({origin}), created by the first run")
    yield check_disk("disk", state_dir())
    yield check_disk("home", home())
    yield from errors_as_results("tokenizer", check_tokenizer)
    yield from errors_as_results("prices", lambda: iter([check_prices(day)]))
    yield from errors_as_results("providers", lambda: check_providers(settings, day))
    yield from check_local_server()
    yield from check_server_data()


def errors_as_results(name: str, check: Callable[[], Iterator[CheckResult]]) -> Iterator[CheckResult]:
    """The results of a check; if it raises an error of ftpipe, that is its result."""
    try:
        yield from check()
    except FtpipeError as error:
        yield CheckResult(name, "error", error.message, error.hint)


def check_python() -> CheckResult:
    """The Python version."""
    return CheckResult("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def check_packages() -> Iterator[CheckResult]:
    """The versions of the packages that ftpipe needs."""
    core = {name: _version(name) for name in CORE_PACKAGES}
    missing = [name for name, version in core.items() if not version]
    text = ", ".join(f"{name} {version}" for name, version in core.items() if version)
    hint = f"pip install {' '.join(missing)}" if missing else ""
    yield CheckResult(
        "packages", "error" if missing else "ok", f"missing: {', '.join(missing)}" if missing else text, hint
    )
    local = {name: _version(name) for name in LOCAL_PACKAGES}
    absent = [name for name, version in local.items() if not version]
    if absent:
        yield CheckResult(
            "local",
            "warning",
            f"not installed: {', '.join(absent)}",
            "pip install 'ftpipe[local]' to train on this machine",
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
    """The GPUs that the system reports, as text for the line about torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return f", {os.cpu_count()} CPUs, no NVIDIA GPU"
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False, env=child_environment())
    except (OSError, subprocess.TimeoutExpired):
        return ", nvidia-smi does not respond"
    return ", " + "; ".join(result.stdout.split("\n")[:8]).strip("; ") if result.stdout.strip() else ", no NVIDIA GPU"


def check_config(settings: Settings) -> CheckResult:
    """Which configuration is used."""
    if settings.path is None:
        return CheckResult("config", "ok", "no ftpipe.toml here: the defaults are used")
    return CheckResult("config", "ok", f"{settings.path}, {plural(len(settings.origins), 'value')} set")


def check_secrets_file(folder: Path) -> CheckResult:
    """Whether ``.env`` is outside git and unreadable for other users."""
    path = folder / ".env"
    if not path.is_file():
        return CheckResult("secrets", "ok", "no .env here")
    if _is_tracked(path):
        return CheckResult(
            "secrets", "error", ".env is tracked by git", "run `git rm --cached .env`, and replace the keys in it"
        )
    if path.stat().st_mode & 0o077:
        return CheckResult(
            "secrets", "warning", ".env can be read by other users of this machine", "run `chmod 600 .env`"
        )
    return CheckResult("secrets", "ok", ".env exists, is not tracked by git, and only you can read it")


def _is_tracked(path: Path) -> bool:
    git = shutil.which("git")
    if git is None:
        return False
    # The repository's own configuration names a program as core.fsmonitor, which git would run.
    command = [git, "-c", "core.fsmonitor=false", "ls-files", "--error-unmatch", path.name]
    result = subprocess.run(command, cwd=path.parent, capture_output=True, check=False, env=child_environment())
    return result.returncode == 0


def check_state_folder() -> CheckResult:
    """Whether runs can be stored here."""
    from ftpipe.registry.database import NETWORK_FILE_SYSTEMS, filesystem_of

    folder = state_dir()
    path = folder if folder.is_dir() else folder.parent
    file_system = filesystem_of(path)
    if not os.access(path, os.W_OK):
        return CheckResult("state", "error", f"{path} is not writable", "run ftpipe in a folder that you can write to")
    if file_system in NETWORK_FILE_SYSTEMS:
        hint = "SQLite is unsafe there: name a local database with FTPIPE_REGISTRY"
        return CheckResult("state", "error", f"{path} is on the network file system {file_system}", hint)
    note = "" if folder.is_dir() else " (created by the first run)"
    return CheckResult("state", "ok", f"{folder}{note}" + (f" on {file_system}" if file_system else ""))


def check_registry(registry: Registry, today: date) -> Iterator[CheckResult]:
    """Whether the registry can be read, and which models are shut down soon."""
    models = registry.models.recent()
    runs = registry.runs.recent(10_000)
    contents = f"{plural(len(runs), 'run')}, {plural(len(models), 'model')}"
    yield CheckResult("registry", "ok", f"readable, {contents}")
    yield check_audit_log(registry)
    yield from check_shutdowns(models, today)
    unfinished = [run for run in runs if run.state in ("prepared", "uploaded")]
    if unfinished:
        yield CheckResult(
            "runs", "warning", f"{plural(len(unfinished), 'run')} did not finish", "run `ftpipe resume` to continue"
        )


def check_shutdowns(models: Sequence[Model], today: date) -> Iterator[CheckResult]:
    """Which models are shut down soon, one line a day; an alias of a model that was shut down is an error."""
    dated = [(model, left) for model in models if (left := days_left(model.base_shutdown_date, today)) is not None]
    hint = "train it again on another base model, or on this machine"
    ended = [model for model, left in dated if left < 0]
    for model in [model for model in ended if model.aliases][:MAX_NAMED_MODELS]:
        text = f"{', '.join(model.aliases)}: {model.id} {shutdown_text(model.base_shutdown_date or '', today)}"
        yield CheckResult("model", "error", text, f"{hint}, and move the alias to the new model")
    if unused := [model for model in ended if not model.aliases]:
        yield CheckResult("models", "ok", f"{plural(len(unused), 'model')} without an alias: shut down before today")
    soon = sorted({model.base_shutdown_date or "" for model, left in dated if 0 <= left <= DATE_WARNING_DAYS})
    for day in soon:
        names = [model.id for model in models if model.base_shutdown_date == day]
        text = shutdown_text(day, today)
        if len(names) == 1:
            yield CheckResult("model", "warning", f"{names[0]} {text}", hint)
        else:
            hint_all = "`ftpipe models inventory` lists them; save their answers and files before that day"
            plain = text.removeprefix("will be ").removeprefix("is ")
            yield CheckResult("models", "warning", f"{plural(len(names), 'model')} will be {plain}", hint_all)


def check_audit_log(registry: Registry) -> CheckResult:
    """Whether the registry's rows are those that ftpipe wrote."""
    from ftpipe.registry.verification import verify_registry

    finding = next(verify_registry(registry.engine), None)
    if finding is not None:
        return CheckResult("audit log", "error", finding.text, "run `ftpipe models verify` for all changed rows")
    return CheckResult("audit log", "ok", f"{plural(registry.audit_log.size(), 'entry', 'entries')}, unchanged")


def check_disk(name: str, folder: Path) -> CheckResult:
    """How much disk space is free."""
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < MIN_DISK_BYTES:
        return CheckResult(
            name, "error", f"{format_bytes(free)} free at {existing}", "free some space before you start a run"
        )
    if free < LOW_DISK_BYTES:
        return CheckResult(
            name,
            "warning",
            f"{format_bytes(free)} free at {existing}",
            "a base model and its checkpoints need about 2 GB",
        )
    return CheckResult(name, "ok", f"{format_bytes(free)} free at {existing}")


def check_tokenizer() -> Iterator[CheckResult]:
    """Whether tokens can be counted offline."""
    from ftpipe.tokenization import encoding_for

    name = encoding_for("gpt-4.1-mini-2025-04-14").name
    yield CheckResult("tokenizer", "ok", f"{name} is included, no network needed")


def check_prices(today: date) -> CheckResult:
    """The age of the newest prices of each provider; those of ``ftpipe.toml`` are checked with each estimate."""
    from ftpipe.catalog.price_file import PROVIDERS
    from ftpipe.catalog.training_prices import STALE_DAYS, PriceTable

    dates = {name: [row.as_of for row in PriceTable.load(target=name).rows() if row.as_of] for name in PROVIDERS}
    newest = {name: max(days) for name, days in dates.items() if days}
    ages = ", ".join(f"{name} {(today - day).days:,} days old ({day})" for name, day in newest.items())
    if all((today - day).days <= STALE_DAYS for day in newest.values()):
        return CheckResult("prices", "ok", ages)
    hint = "compare them with the price page: `ftpipe config prices --toml` prints a file to correct, "
    hint += "`ftpipe config prices FILE` loads it"
    return CheckResult("prices", "warning", ages, hint)


def check_providers(settings: Settings, today: date) -> Iterator[CheckResult]:
    """Which API keys are set, and until when each provider accepts jobs."""
    from ftpipe.config import secrets
    from ftpipe.providers.address import find_address, is_trusted
    from ftpipe.providers.profiles import load_profiles

    env = secrets(os.environ)
    for name, profile in load_profiles(settings.config.providers).items():
        if not profile.paid:
            continue
        is_selected = settings.config.provider == name
        has_key = bool(env.get(profile.key_env))
        result = _check_provider(profile, is_selected=is_selected, has_key=has_key, today=today)
        if profile.untried:
            result = replace(result, message=f"{result.message}; {profile.untried}")
        address = find_address(name, settings.config.providers, env)
        if address is None:
            yield result
            continue
        message = f"{result.message}; requests go to {address.origin}, named by {address.source}"
        if is_trusted(address, env):
            yield replace(result, message=message)
        else:
            hint = f"if this host is the right one, add --trust-host {address.origin}"
            status: CheckStatus = "error" if is_selected else "warning"
            yield CheckResult(name, status, f"{message}: you have not confirmed this host", hint)


def _check_provider(profile: Profile, *, is_selected: bool, has_key: bool, today: date) -> CheckResult:
    last, key, name = profile.last_day_to_create, profile.key_env, profile.name
    left = days_left(last, today)
    if is_closed(profile, today):
        return CheckResult(
            name,
            "error" if is_selected else "warning",
            f"{new_jobs_text(last, today)}; {models_text(profile, today)}",
            "train on this machine (--provider local), or at another provider",
        )
    if not has_key:
        hint = f"put {key}=… into .env or the environment" if is_selected else ""
        return CheckResult(name, "error" if is_selected else "not configured", f"no key: {key} is not set", hint)
    if left is not None and left <= DATE_WARNING_DAYS:
        who = ", only for organizations that have trained before" if profile.new_customers is False else ""
        hint = f"run `ftpipe doctor --online --provider {name}` to check your account"
        return CheckResult(name, "warning", f"{key} is set; {new_jobs_text(last, today)}{who}", hint)
    return CheckResult(name, "ok", f"{key} is set")


def check_local_server() -> Iterator[CheckResult]:
    """Whether the embedded server is running, and the inference server that answers for it."""
    from ftpipe.server.process_control import status

    server = status(server_dir())
    if not server.running:
        yield CheckResult("endpoint", "ok", "not running; `ftpipe train` starts it if needed")
        return
    if not server.is_responding:
        yield CheckResult(
            "endpoint",
            "warning",
            f"process {server.pid} is running but does not respond",
            "run `ftpipe serve logs` for the reason",
        )
    else:
        yield CheckResult("endpoint", "ok", f"running at {server.base_url}, process {server.pid}")
    if (inference := server.inference) is not None:
        state = f"{inference.url} is {inference.status}, with {plural(inference.adapters, 'adapter')} loaded"
        is_wrong = inference.status in ("unreachable", "failing")
        message = inference.message or state
        yield CheckResult("inference server", "error" if is_wrong else "ok", message, inference.hint)


def check_server_data() -> Iterator[CheckResult]:
    """Whether the local server has moved anything to ``lost+found``; nothing if there is no data folder."""
    from ftpipe.server.storage.lost_and_found import count_items

    folder = server_dir()
    if not folder.is_dir():
        return
    items, size = count_items(folder)
    if items:
        message = f"{plural(items, 'item')} ({format_bytes(size)}) in {folder / 'lost+found'}"
        hint = "the database did not know them; look at them, then move them back or delete them yourself"
        yield CheckResult("server data", "warning", message, hint)
    else:
        yield CheckResult("server data", "ok", f"{folder}: nothing in lost+found")
