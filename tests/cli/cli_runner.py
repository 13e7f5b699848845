"""A command line over a mocked endpoint: what a test types, and what it gets back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.config import Settings
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.registry import Registry
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI


@dataclass(frozen=True)
class CommandResult:
    """What one call did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document; stdout holds nothing else."""
        return json.loads(self.out)


class FakeCliContext(CliContext):
    """A context whose every provider is one mocked endpoint, and whose clock stands still."""

    server: FakeOpenAI
    answers: bool | None

    def provider(self, name: str, settings: Settings, *, start: bool = True) -> Provider:
        """The named profile over the mocked client."""
        known = find_profile(name, settings.config.providers)
        profile = known.model_copy(update={"base_url": known.base_url or "http://127.0.0.1:1/v1", "key_env": ""})
        return open_openai(profile, {}, client=self.server.as_client(), sleep=Clock().sleep)

    def pipeline(self, provider: Provider, registry: Registry, settings: Settings | None = None) -> Pipeline:
        """A pipeline that never really waits."""
        max_cost = settings.config.max_cost if settings else None
        return Pipeline(provider=provider, registry=registry, sleep=Clock().sleep, max_cost=max_cost)


class CliEnvironment:
    """One endpoint, and a folder to work in."""

    def __init__(self, read: Callable[[], tuple[str, str]]) -> None:
        self.server = FakeOpenAI()
        self._read = read

    def make_context(self) -> FakeCliContext:
        """The context of one command."""
        return FakeCliContext()

    def run(self, *argv: str) -> CommandResult:
        """Type a command line."""
        context = self.make_context()
        context.server = self.server
        self._read()
        code = execute(root, argv, context)
        out, err = self._read()
        return CommandResult(code, out, err)

    @property
    def paid_jobs(self) -> int:
        """How many jobs the endpoint was asked to create."""
        return self.server.calls["jobs.create"]


def chat_file(name: str = "train.jsonl", *, rows: int = 12, first: int = 0, extra: str = "") -> Path:
    """A good dataset in the working folder, with lines added at its end."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is {number} plus {number * 7}?"},
                    {"role": "assistant", "content": f"It is {number * 8}, counted by hand."},
                ]
            }
        )
        for number in range(first, first + rows)
    ]
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")
    return path
