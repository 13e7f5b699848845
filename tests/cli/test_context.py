"""The context of a command: environment variables that are read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.cli.context import CliContext, CurrentEnvironment


def test_current_environment_reads_replaced_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that expires is replaced in ``.env`` while a job is polled; the environment still wins."""
    context = CliContext()
    current = CurrentEnvironment(context.environment)
    assert "AWS_BEARER_TOKEN_BEDROCK" not in current
    for key in ("first-short-term-key", "second-short-term-key"):
        Path(".env").write_text(f"AWS_BEARER_TOKEN_BEDROCK={key}\n", encoding="utf-8")
        assert current["AWS_BEARER_TOKEN_BEDROCK"] == key
        assert context.redact(f"refused: {key}") == "refused: ***"
    assert len(current) == len(list(current))
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "of-the-environment")
    assert current["AWS_BEARER_TOKEN_BEDROCK"] == "of-the-environment"


def test_context_opens_a_registry_for_writing_once() -> None:
    context = CliContext()
    registry = context.registry()
    assert context.registry() is registry
    assert context.registry(read_only=True) is not registry
    context.close()
    assert context.registry() is not registry
    context.close()
