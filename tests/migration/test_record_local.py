"""``ftpipe models record --batch`` at the embedded server, which has the Batch API, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.migration.recording import read_recording
from tests.gateway.live_server import LiveServer
from tests.server.fakes import TINY


def test_record_in_a_batch_of_the_embedded_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each prompt is answered once, at lowest priority, and a second run asks for nothing."""
    Path("ftpipe.toml").write_text("[providers.local]\npoll_first_seconds = 0.01\npoll_max_seconds = 0.02\n")
    row = '{"messages": [{"role": "user", "content": "hi %d"}, {"role": "assistant", "content": "ho"}]}\n'
    Path("held.jsonl").write_text("".join(row % number for number in range(5)))
    with LiveServer(tmp_path) as server:
        monkeypatch.setenv("FTPIPE_LOCAL_BASE_URL", f"http://127.0.0.1:{server.address[1]}/v1")
        command = ("models", "record", TINY, "--provider", "local", "--prompts", "held.jsonl", "--batch", "--yes")
        for _ in range(2):
            assert execute(root, (*command, "-o", "golden.jsonl"), CliContext()) == 0, capsys.readouterr().err
        assert [one.greedy.content for one in read_recording(Path("golden.jsonl")).prompts] == [
            "hello there friend"
        ] * 5
        assert {request.priority for request in server.engine.requests} == {"batch"}
        assert len(server.client().batches.list().data) == 1
        assert len(server.engine.requests) == 5
