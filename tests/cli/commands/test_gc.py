"""``ftpipe gc`` deletes what nobody refers to any more, after showing it; ``--dry-run`` changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.paths import models_dir
from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.cli.commands.test_status import snapshot

HOSTED = ("--provider", "openai", "--yes", "--epochs", "3")


def prepared(cli: CliEnvironment, name: str, first: int) -> Path:
    """Prepare a dataset and return its folder."""
    document = cli.run("prepare", str(chat_file(name, first=first)), "--json").document
    return Path(document["prepared"]["folder"])


@pytest.fixture
def folders(cli: CliEnvironment) -> dict[str, Path]:
    """Prepared datasets: one that was trained on, one that was not, one with a file of the user, and the latest."""
    trained = prepared(cli, "trained.jsonl", 0)
    assert cli.run("train", *HOSTED).code == 0
    unused, own, latest = (prepared(cli, f"{number}.jsonl", number) for number in (20, 40, 60))
    (own / "notes.txt").write_text("mine")
    return {"trained": trained, "unused": unused, "own": own, "latest": latest}


def test_gc_dry_run_shows_and_changes_nothing(cli: CliEnvironment, folders: dict[str, Path]) -> None:
    """Size, path and reason of each."""
    before = snapshot(Path())
    ran = cli.run("gc", "--dry-run")
    assert ran.code == 0
    [line] = ran.out.splitlines()
    assert str(folders["unused"].relative_to(Path.cwd())) in line
    assert "no run or model was made of" in line
    assert "kB" in line
    assert "1 item" in ran.err
    assert "would be deleted" in ran.err
    assert snapshot(Path()) == before


def test_gc_asks_before_it_deletes(cli: CliEnvironment, folders: dict[str, Path]) -> None:
    ran = cli.run("gc")
    assert (ran.code, "--yes" in ran.err) == (2, True)
    assert folders["unused"].exists()


def test_gc_keeps_what_runs_and_models_need(cli: CliEnvironment, folders: dict[str, Path]) -> None:
    """Also those in the project's registry if another one is in use; what a deleted model needed is not kept.

    A prepared copy of data that was trained from elsewhere may be its last one.
    """
    copied = prepared(cli, "copied.jsonl", 80)
    cli.run("train", "copied.jsonl", *HOSTED)
    prepared(cli, "60.jsonl", 60)
    assert cli.run("gc", "--yes", "--registry", "other.db").code == 0
    assert {name for name, folder in folders.items() if folder.exists()} == {"trained", "own", "latest"}
    assert copied.exists()
    assert cli.run("gc").out.strip() == "nothing to delete"
    cli.run("models", "delete", "ftjob-1", "--yes")
    document = cli.run("gc", "--yes", "--json").document
    assert [item["path"] for item in document["garbage"]] == [str(folders["trained"])]
    assert (document["deleted"], document["bytes"] > 0) == (True, True)
    assert {name for name, folder in folders.items() if folder.exists()} == {"own", "latest"}


def test_gc_deletes_interrupted_downloads(cli: CliEnvironment) -> None:
    """Not while one is running."""
    from filelock import FileLock

    left = models_dir() / ".installing-abc"
    left.mkdir(parents=True)
    (left / "weights.gguf").write_bytes(b"x" * 1000)
    with FileLock(models_dir() / "smollm2-135m-instruct.lock"):
        assert cli.run("gc").out.strip() == "nothing to delete"
    document = cli.run("gc", "--dry-run", "--json").document
    assert (document["bytes"], document["garbage"][0]["kind"]) == (1000, "download")
    assert cli.run("gc", "--yes").code == 0
    assert not left.exists()


def test_gc_ignores_links_and_foreign_folders(cli: CliEnvironment, tmp_path: Path) -> None:
    """A link may lead anywhere, and a folder without our manifest is not ours."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "manifest.json").write_text(json.dumps({"schema": "ftpipe.prepared/1"}))
    state = Path(".ftpipe/prepared")
    state.mkdir(parents=True)
    (state / "link").symlink_to(target)
    (state / "foreign").mkdir()
    (state / "foreign" / "train.jsonl").write_text("{}")
    assert cli.run("gc", "--yes").out.strip() == "nothing to delete"
    assert (target / "manifest.json").exists()
