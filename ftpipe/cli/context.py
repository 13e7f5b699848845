"""What one call of the command line carries: how to speak, where results go, and the doors to the rooms below."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from ftpipe.errors import UsageError

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.pipeline.pipeline import Pipeline
    from ftpipe.providers.provider import Provider
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
_SECRET_NAME = re.compile(r"(API_KEY|TOKEN|SECRET|PASSWORD)$")

_NARROWEST = 40
"""Columns below which lines are left to the terminal."""


def _wants_json() -> bool:
    return os.environ.get("FTPIPE_JSON", "") not in ("", "0")


@dataclass
class CliContext:
    """The state of one call; commands get it through ``click.make_pass_decorator``."""

    json: bool = field(default_factory=_wants_json)
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    debug: bool = False
    config_path: str | None = None
    command: str = "ftpipe"
    """Dotted name, for the JSON schema."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What the JSON document will hold; it is written once, when the command has ended, well or not."""
    exit_code: int = 0
    """The code of a good end; 8 where the asked-about job still runs."""
    interrupt_message: str = "interrupted; nothing was sent"
    """What an interrupt says about where things stand."""
    resume_hint: str = ""
    """What an interrupt says about going on."""
    _secrets: set[str] = field(default_factory=set)
    _at_end: list[Callable[[], None]] = field(default_factory=list)

    def add(self, **fields: Any) -> None:
        """Put fields into the JSON document."""
        self.fields |= fields

    def print_result(self, lines: str | Iterable[str] = "") -> None:
        """Result text on stdout; nothing where JSON was asked for."""
        if not self.json:
            self._write(lines, sys.stdout)

    def print_status(self, lines: str | Iterable[str] = "") -> None:
        """Progress and advice on stderr; nothing under ``--quiet``."""
        if not self.quiet:
            self._write(lines, sys.stderr)

    def print_always(self, lines: str | Iterable[str]) -> None:
        """What has to be known, on stderr, also under ``--quiet``."""
        self._write(lines, sys.stderr)

    def _write(self, lines: str | Iterable[str], stream: TextIO) -> None:
        for line in [lines] if isinstance(lines, str) else lines:
            for shown in self._folded(self.redact(line), stream):
                click.echo(shown, file=stream, color=self.has_color(stream))

    def _folded(self, line: str, stream: TextIO) -> list[str]:
        if len(line) < _NARROWEST or not stream.isatty():
            return [line]
        from shutil import get_terminal_size

        from ftpipe.cli.wrapping import wrap_line

        width = get_terminal_size().columns
        return [part for one in line.split("\n") for part in wrap_line(one, max(width, _NARROWEST))]

    def has_color(self, stream: TextIO) -> bool:
        """Whether a stream gets colour: a terminal that was not asked to stay plain."""
        if self.no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return bool(stream.isatty())

    def style(self, style: str, text: str, *, err: bool = False) -> str:
        """Colour for stdout, or for stderr."""
        if not self.has_color(sys.stderr if err else sys.stdout):
            return text
        return click.style(text, **_STYLES[style])

    def style_err(self, style: str, text: str) -> str:
        """Colour for stderr, in the shape that reports take."""
        return self.style(style, text, err=True)

    def redact(self, text: str) -> str:
        """The text without any secret that this process knows."""
        for secret in self._known_secrets():
            text = text.replace(secret, "***")
        return text

    def _known_secrets(self) -> set[str]:
        if not self._secrets:
            self._secrets = {
                value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= 8
            }
        return self._secrets

    def environment(self) -> dict[str, str]:
        """The environment with the secrets of ``.env`` under it."""
        from ftpipe.config import secrets

        merged = secrets(os.environ)
        self._secrets |= {value for name, value in merged.items() if _SECRET_NAME.search(name) and len(value) >= 8}
        return merged

    def settings(self, flags: Mapping[str, object] | None = None) -> Settings:
        """The resolved configuration, with a command's flags on top (dotted key → value, ``None`` = not given)."""
        from ftpipe.config import load

        return load(Path(self.config_path) if self.config_path else None, env=self.environment(), flags=flags)

    def registry(self, settings: Settings | None = None) -> Registry:
        """The registry that the configuration names; it is closed when the command has ended."""
        from ftpipe.registry import open_registry

        registry = open_registry((settings or self.settings()).config.registry)
        self._at_end.append(registry.close)
        return registry

    def provider(self, name: str, settings: Settings) -> Provider:
        """A provider by name, ready to be asked."""
        from ftpipe.providers import open_provider

        provider = open_provider(name, profiles=settings.config.providers, env=self.environment())
        provider.on_retry(self.print_status)
        self._at_end.append(provider.close)
        return provider

    def pipeline(self, provider: Provider, registry: Registry) -> Pipeline:
        """The pipeline over both."""
        from ftpipe.pipeline.pipeline import Pipeline

        return Pipeline(provider=provider, registry=registry)

    def close(self) -> None:
        """Let go of what the command has opened."""
        while self._at_end:
            self._at_end.pop()()

    def confirm(self, question: str, *, flag: str = "--yes") -> None:
        """Ask a yes/no question on the terminal.

        Raises:
            UsageError: There is no terminal to ask on, or the answer was no.
        """
        if self.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("this costs money, and there is no terminal to ask on", f"add {flag} to go ahead unasked")
        if not click.confirm(question, err=True):
            raise UsageError("not confirmed: nothing was sent, nothing was spent", f"add {flag} to go ahead unasked")


pass_cli_context = click.make_pass_decorator(CliContext)
