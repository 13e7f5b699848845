"""The offline checks of ``ftpipe doctor``."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path

import pytest

from ftpipe.config import load
from ftpipe.doctor.offline_checks import (
    check_disk,
    check_packages,
    check_prices,
    check_providers,
    check_python,
    check_secrets_file,
    check_server_data,
    errors_as_results,
)
from ftpipe.errors import LocalStateError


def test_check_packages_names_both_groups() -> None:
    assert check_python().status == "ok"
    assert {result.name for result in check_packages()} == {"packages", "local"}


def test_check_disk_of_a_missing_folder(tmp_path: Path) -> None:
    """The free space of the nearest existing parent."""
    result = check_disk("disk", tmp_path / "later" / "still")
    assert "free" in result.message
    assert str(tmp_path) in result.message


@pytest.mark.parametrize(("mode", "status"), [(0o644, "warning"), (0o600, "ok")])
def test_check_secrets_file_warns_if_others_can_read_it(tmp_path: Path, mode: int, status: str) -> None:
    path = tmp_path / ".env"
    path.write_text("X=1\n")
    path.chmod(mode)
    assert check_secrets_file(tmp_path).status == status


def test_check_secrets_file_runs_no_program_of_the_repository(tmp_path: Path) -> None:
    """A downloaded folder can bring a ``.git/config`` that names a program."""
    mark = tmp_path / "mark"
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o700)
    folder = tmp_path / "folder"
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".git" / "config").write_text(f"[core]\nrepositoryformatversion = 0\nbare = false\nfsmonitor = {hook}\n")
    (folder / ".env").write_text("X_API_KEY=1\n")
    subprocess.run(["git", "add", ".env"], cwd=folder, check=True)
    assert mark.exists()  # git itself runs it
    mark.unlink()
    assert check_secrets_file(folder).status == "error"
    assert not mark.exists()


def test_check_prices_warns_about_old_prices() -> None:
    """One result, with the age of each provider's prices and how to load newer ones."""
    recent, old = check_prices(date(2025, 7, 10)), check_prices(date(2030, 1, 1))
    assert (recent.status, old.status) == ("ok", "warning")
    assert "openai 1,646 days old (2025-06-30), azure" in old.message
    assert "ftpipe config prices FILE" in old.hint


def test_check_providers_reports_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error for the configured provider only."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("NEBIUS_API_KEY", raising=False)
    settings = load(env={}, flags={"provider": "nebius"})
    results = {result.name: result for result in check_providers(settings, date(2026, 8, 1))}
    assert results["nebius"].status == "error"
    assert "NEBIUS_API_KEY" in results["nebius"].hint
    assert results["openai"].status == "not configured"


def test_errors_as_results_reports_an_error_of_ftpipe() -> None:
    def check() -> None:
        raise LocalStateError("the registry is damaged", "run `ftpipe doctor --repair`")

    [result] = errors_as_results("registry", lambda: iter([check()]))  # type: ignore[list-item,func-returns-value]  # raises
    assert (result.status, result.message, result.hint) == (
        "error",
        "the registry is damaged",
        "run `ftpipe doctor --repair`",
    )


def test_check_server_data_counts_what_is_in_lost_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's folder is one item."""
    monkeypatch.setenv("FTPIPE_HOME", str(tmp_path))
    assert list(check_server_data()) == []
    moved = tmp_path / "server" / "lost+found" / "2026-11-28T183000Z"
    for name in ("jobs/ftjob-1/checkpoints/step-1", "files"):
        (moved / name).mkdir(parents=True)
    (moved / "jobs/ftjob-1/checkpoints/step-1/adapter").write_bytes(b"x" * 1000)
    (moved / "files/file-1").write_bytes(b"x" * 24)
    [result] = check_server_data()
    assert result.status == "warning"
    assert "2 items" in result.message
    assert str(tmp_path / "server" / "lost+found") in result.message
