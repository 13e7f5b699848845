"""Per-invocation context: output options, and factories for settings, registry, provider and pipeline."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from ftpipe.errors import ConnectionFailedError, InterruptedRunError, NotFoundError, UsageError

if TYPE_CHECKING:
    from ftpipe.cli.host_confirmation import HostPrompt
    from ftpipe.config import Settings
    from ftpipe.pipeline.pipeline import Pipeline
    from ftpipe.providers.provider import Provider
    from ftpipe.records import Job
    from ftpipe.registry import Registry

_STYLES: dict[str, dict[str, Any]] = {
    "error": {"fg": "red", "bold": True},
    "warning": {"fg": "yellow"},
    "info": {"fg": "blue"},
    "ok": {"fg": "green"},
    "bold": {"bold": True},
    "dim": {"dim": True},
    "code": {"fg": "cyan"},
}
_SECRET_NAME = re.compile(r"(API_KEY|TOKEN|SECRET|PASSWORD)$|^AWS_BEARER_TOKEN_BEDROCK$")
_MIN_SECRET_CHARACTERS = 8

DEFAULT_COLUMNS = 80
"""Width of charts and bars that do not go to a terminal."""
_MIN_WRAP_COLUMNS = 40
"""On a narrower terminal lines are wrapped at this width, and the terminal breaks them again."""


def _wants_json() -> bool:
    return os.environ.get("FTPIPE_JSON", "") not in ("", "0")


def _terminal_columns() -> int:
    from shutil import get_terminal_size

    return max(get_terminal_size().columns, _MIN_WRAP_COLUMNS)


@dataclass
class CliContext:
    """The state of one invocation; commands get it through :data:`pass_cli_context`."""

    json: bool = field(default_factory=_wants_json)
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    debug: bool = False
    force: bool = False
    """Whether output files that exist may be replaced."""
    config_path: str | None = None
    registry_url: str | None = None
    """From ``--registry``: a path or a URL."""
    trusted_hosts: tuple[str, ...] = ()
    """From ``--trust-host``."""
    command: str = "ftpipe"
    """Dotted name, for the JSON schema."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the JSON document. It is written once, when the command has ended, successfully or not."""
    exit_code: int = 0
    """Exit code if no error is raised, for example 8 if the job is still running."""
    _secrets: set[str] = field(default_factory=set)
    _at_end: list[Callable[[], None]] = field(default_factory=list)
    _registries: dict[str | None, Registry] = field(default_factory=dict)
    """Registries that are open for writing, by their path or URL."""
    _warnings: set[str] = field(default_factory=set)
    """Warnings that were shown."""

    def add(self, **fields: Any) -> None:
        """Add fields to the JSON document."""
        self.fields |= fields

    def print_result(self, lines: str | Iterable[str] = "") -> None:
        """Write result text to stdout; nothing under ``--json``."""
        if not self.json:
            self._write(lines, sys.stdout)

    def print_document(self, text: str) -> None:
        """Write text for programs to stdout, never wrapped; nothing under ``--json``."""
        if not self.json:
            click.echo(self.redact(text), color=False)

    def print_status(self, lines: str | Iterable[str] = "") -> None:
        """Write progress and advice to stderr; nothing under ``--quiet``."""
        if not self.quiet:
            self._write(lines, sys.stderr)

    def print_next(self, command: str) -> None:
        """Write the command to run next to stderr; nothing under ``--quiet``."""
        self.print_status(f"{self.style_err('bold', 'Next:')} {command}")

    def print_always(self, lines: str | Iterable[str]) -> None:
        """Write to stderr, also under ``--quiet``."""
        self._write(lines, sys.stderr)

    def _write(self, lines: str | Iterable[str], stream: TextIO) -> None:
        for line in [lines] if isinstance(lines, str) else lines:
            for part in self._wrapped(self.redact(line), stream):
                click.echo(part, file=stream, color=self.has_color(stream))

    @property
    def width(self) -> int | None:
        """Columns of the terminal that stdout goes to; ``None`` if it goes elsewhere."""
        return _terminal_columns() if sys.stdout.isatty() else None

    def _wrapped(self, line: str, stream: TextIO) -> list[str]:
        if len(line) < _MIN_WRAP_COLUMNS or not stream.isatty():
            return [line]
        from ftpipe.formatting import wrap_line

        width = _terminal_columns()
        return [part for one in line.split("\n") for part in wrap_line(one, width)]

    def has_color(self, stream: TextIO) -> bool:
        """Whether a stream gets colour: a terminal, unless colour is turned off."""
        if self.no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return bool(stream.isatty())

    def style(self, style: str, text: str, *, err: bool = False) -> str:
        """Colour text for stdout, or for stderr."""
        if not self.has_color(sys.stderr if err else sys.stdout):
            return text
        return click.style(text, **_STYLES[style])

    def style_err(self, style: str, text: str) -> str:
        """Colour text for stderr; the style function that reports take."""
        return self.style(style, text, err=True)

    def redact(self, text: str) -> str:
        """Replace every secret that this process knows with ``***``."""
        for secret in self._known_secrets():
            text = text.replace(secret, "***")
        return text

    def _known_secrets(self) -> set[str]:
        if not self._secrets:
            self._secrets = _secret_values(os.environ)
        return self._secrets

    @contextmanager
    def interruptible(self, message: str, hint: str = "") -> Iterator[None]:
        """Report Ctrl-C in this block with this message, and how to continue.

        Args:
            message: What has happened so far.
            hint: How to continue. If it is a command, an unexpected error in the block shows it, too.

        Raises:
            InterruptedRunError: Ctrl-C was pressed.
        """
        try:
            yield
        except KeyboardInterrupt as exc:
            raise InterruptedRunError(message, hint) from exc
        except Exception as exc:
            if hint.startswith("ftpipe "):
                exc.add_note(hint)
            raise

    def environment(self) -> dict[str, str]:
        """The environment variables, with those of ``.env`` for names that are not set."""
        from ftpipe.config import secrets

        merged = secrets(os.environ)
        if self.trusted_hosts:
            merged["FTPIPE_TRUSTED_HOSTS"] = " ".join((merged.get("FTPIPE_TRUSTED_HOSTS", ""), *self.trusted_hosts))
        self._secrets |= _secret_values(merged)
        return merged

    def settings(self, flags: Mapping[str, object] | None = None) -> Settings:
        """Resolve the configuration; ``flags`` (dotted key → value, ``None`` = not given) override it."""
        from ftpipe.config import load

        flags = {**(flags or {}), "registry": self._registry_flag()}
        path = Path(self.config_path) if self.config_path else None
        settings = load(path, env=self.environment(), flags=flags)
        for warning in settings.warnings:
            self.warn_once(warning)
        return settings

    def warn_once(self, text: str) -> None:
        """Write a warning to stderr, unless this command has written it before; nothing under ``--quiet``."""
        from ftpipe.formatting import sanitize_line

        if text not in self._warnings:
            self._warnings.add(text)
            self.print_status(f"{self.style_err('warning', 'warning:')} {sanitize_line(text, 400)}")

    def _registry_flag(self) -> str | None:
        from ftpipe.config import absolute_registry, has_password

        if self.registry_url and has_password(self.registry_url):
            raise UsageError(
                "other users of this machine can read the password in --registry",
                "put the URL into FTPIPE_REGISTRY, in the environment or in .env",
            )
        return absolute_registry(self.registry_url) if self.registry_url else None

    def registry(self, settings: Settings | None = None, *, read_only: bool = False) -> Registry:
        """Open the configured registry; it is closed when the command ends, and opened for writing once.

        Args:
            settings: The configuration.
            read_only: Write nothing, neither to the registry nor beside it.
        """
        from ftpipe.cli.host_confirmation import confirm_registry
        from ftpipe.registry import open_registry

        settings = settings or self.settings()
        url = settings.config.registry
        if not read_only and url in self._registries:
            return self._registries[url]
        confirm_registry(settings, self.environment(), self._host_prompt())
        registry = open_registry(url, read_only=read_only)
        self._at_end.append(registry.close)
        if not read_only:
            self._registries[url] = registry
        return registry

    def provider(self, name: str, settings: Settings, *, start: bool = True) -> Provider:
        """Open a provider by name; it is closed when the command ends.

        Args:
            name: The provider's name.
            settings: The configuration.
            start: Whether to start the embedded server if it does not run; a look-up does not.
        """
        from ftpipe.cli.host_confirmation import confirm_host
        from ftpipe.providers import find_profile, open_provider

        env = self.environment()
        confirm_host(name, settings, env, self._host_prompt())
        key_expires = find_profile(name, settings.config.providers).key_expires
        current = CurrentEnvironment(self.environment) if key_expires else env
        provider = open_provider(name, profiles=settings.config.providers, env=current, start=start)
        provider.on_retry(self.print_status)
        self._at_end.append(provider.close)
        return provider

    def _host_prompt(self) -> HostPrompt:
        from ftpipe.cli.host_confirmation import HostPrompt

        return HostPrompt(trusted_hosts=self.trusted_hosts, can_ask=self.can_ask, print_line=self.print_always)

    def look_up_job(self, job: str, provider_name: str, settings: Settings) -> tuple[Provider, Job]:
        """Read a job that the registry does not know from its provider; the embedded server is not started for it.

        Raises:
            UsageError: The embedded server does not run, or the provider does not know the job either.
        """
        try:
            provider = self.provider(provider_name, settings, start=False)
        except ConnectionFailedError as error:
            raise UsageError(
                f"the registry has no job {job!r}, and {error.message}",
                "run `ftpipe jobs list` for known jobs, or name the job's provider with --provider",
            ) from error
        try:
            return provider, provider.jobs.get(job)
        except NotFoundError as error:
            raise UsageError(error.message, "run `ftpipe jobs list` for known jobs") from error

    def pipeline(self, provider: Provider, registry: Registry, settings: Settings | None = None) -> Pipeline:
        """Create the pipeline of a provider and a registry; ``settings`` limit the price that a provider quotes."""
        from ftpipe.pipeline.pipeline import Pipeline

        max_cost = settings.config.max_cost if settings else None
        return Pipeline(provider=provider, registry=registry, max_cost=max_cost)

    def close(self) -> None:
        """Close everything that the command has opened."""
        self._registries.clear()
        while self._at_end:
            self._at_end.pop()()

    def close_at_end(self, close: Callable[[], None]) -> None:
        """Call this when the command ends."""
        self._at_end.append(close)

    @property
    def can_ask(self) -> bool:
        """Whether there is a terminal to ask on."""
        return not self.json and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str, *, reason: str = "this costs money", undone: str = "nothing was spent") -> None:
        """Ask a yes/no question on the terminal before money is spent or something is deleted.

        Args:
            question: The question.
            reason: Why it has to be asked.
            undone: What was not done if the answer is no.

        Raises:
            UsageError: There is no terminal to ask on, or the answer was no.
            InterruptedRunError: Ctrl-C was pressed.
        """
        hint = "add --yes to skip the question"
        if not self.can_ask:
            raise UsageError(f"{reason}, and there is no terminal to ask for confirmation", hint)
        try:
            is_confirmed = click.confirm(question, err=True)
        except click.Abort as exc:
            raise InterruptedRunError(f"interrupted; nothing was sent, {undone}") from exc
        if not is_confirmed:
            raise UsageError(f"not confirmed: nothing was sent, {undone}", hint)

    def confirm_deletion(self, question: str, *, yes: bool) -> None:
        """Ask before something is deleted, unless ``--yes`` was given; raises as ``confirm`` does."""
        if not yes:
            self.confirm(question, reason="this deletes something", undone="nothing was deleted")


class CurrentEnvironment(Mapping[str, str]):
    """Environment variables as they are when they are read: a key that expires is replaced in ``.env`` meanwhile."""

    def __init__(self, read: Callable[[], Mapping[str, str]]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def _secret_values(environment: Mapping[str, str]) -> set[str]:
    return {
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_CHARACTERS
    }


pass_cli_context = click.make_pass_decorator(CliContext)
