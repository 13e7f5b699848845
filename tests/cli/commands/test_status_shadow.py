"""``ftpipe status --shadow`` reads the server's database, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.paths import server_dir
from ftpipe.server.storage import ShadowResultRow, open_store
from ftpipe.server.storage.shadow_results import ShadowCounts
from tests.cli.cli_runner import CliEnvironment
from tests.cli.commands.test_status import snapshot


def compared(folder: Path, *, answers: int = 150) -> Path:
    """A server's folder with one comparison, whose old model has a hostile name."""
    folder.mkdir(parents=True)
    store = open_store(folder / "server.db")
    with store.write() as tx:
        pair_id = tx.shadow.add_counts("local", "ft:old\x1b[2J", "new", 0.1, ShadowCounts(chats=1500))
        for number in range(answers):
            tx.shadow.add(
                ShadowResultRow(
                    pair_id=pair_id,
                    created_at=1,
                    status="answered",
                    request_digest=str(number),
                    old_digest="a",
                    old_seconds=1,
                    old_tokens={},
                    new_digest="a",
                    new_seconds=1,
                    agrees=True,
                )
            )
    store.close()
    return folder


def test_status_shadow_shows_verdict(cli: CliEnvironment) -> None:
    before = snapshot(compared(server_dir()))
    ran = cli.run("status", "--shadow")
    assert ran.code == 0
    assert "no difference above 5 points" in ran.out
    assert "\x1b" not in ran.out
    assert "two to four weeks" in ran.out
    assert snapshot(server_dir()) == before


def test_status_shadow_json(cli: CliEnvironment, tmp_path: Path) -> None:
    folder = compared(tmp_path / "other", answers=20)
    (document,) = cli.run("status", "--shadow", "--data-dir", str(folder), "--margin", "0.2", "--json").document[
        "shadow"
    ]
    assert (document["verdict"], document["margin"], document["mirrored"]) == ("undecided", 0.2, 20)
    assert 0 < document["more_requests"] < 100
    assert document["agreement"]["low"] < document["agreement"]["value"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--shadow",), "no server has used"),
        (("--margin", "0.1"), "need --shadow"),
        (("--shadow", "ftjob-1"), "not about a job"),
        (("--shadow", "--watch"), "not about a job"),
    ],
)
def test_status_shadow_usage(cli: CliEnvironment, argv: tuple[str, ...], message: str) -> None:
    ran = cli.run("status", *argv)
    assert ran.code != 0
    assert message in ran.err


def test_status_shadow_without_comparisons(cli: CliEnvironment) -> None:
    server_dir().mkdir(parents=True)
    open_store(server_dir() / "server.db").close()
    ran = cli.run("status", "--shadow")
    assert ran.code == 2
    assert "no chat was mirrored yet" in ran.err


def test_jobs_show_is_about_jobs(cli: CliEnvironment) -> None:
    assert "--shadow" not in cli.run("jobs", "show", "--help").out
