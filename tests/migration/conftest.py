"""The fake OpenAI account, and the command line of a user who has its key, on any day."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import time_machine

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from tests.cli.cli_runner import CommandResult
from tests.fakes.openai_account import OpenAIAccount

KEY = "sk-account-canary-0123456789"


class AccountUser:
    """A user with the key of an account, in a folder of their own.

    Args:
        account: The account.
        capsys: Captures what commands write.
    """

    def __init__(self, account: OpenAIAccount, capsys: pytest.CaptureFixture[str]) -> None:
        self.account = account
        self._capsys = capsys

    def run(self, *argv: str) -> CommandResult:
        """Run a command line."""
        self._capsys.readouterr()
        code = execute(root, argv, CliContext())
        captured = self._capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    def document(self, *argv: str) -> Any:
        """The JSON document of a command."""
        return self.run(*argv, "--json").document

    @contextmanager
    def on(self, day: str) -> Iterator[AccountUser]:
        """Noon of a day, for the user and for the account."""
        with time_machine.travel(f"{day}T12:00:00+00:00", tick=True):
            yield self


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[AccountUser]:
    """A user of an account of 40 fine-tunes."""
    with OpenAIAccount() as account:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", account.base_url)
        yield AccountUser(account, capsys)


RunCommand = Callable[..., CommandResult]


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for on the disk: for tests that do not cut the power, and that write many files."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture
def account(user: AccountUser, no_fsync: None) -> Iterator[OpenAIAccount]:
    """The account of the user, on a day on which everything works."""
    with user.on("2026-11-28"):
        yield user.account


@pytest.fixture
def run_command(user: AccountUser, account: OpenAIAccount) -> RunCommand:
    """Runs a command line of the user."""
    return user.run
