"""``POST /ftpipe/losses``: rows scored by a process of their own, as a stream, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.server.app import Ports, ServeSettings
from ftpipe.server.house import build
from ftpipe.server.losses import Losses
from ftpipe.server.wire import ApiError, Call, ReceivedFile
from tests.server.conftest import MakeClient
from tests.server.fakes import TINY, FakeBases
from tests.server.trainers.tiny import rows, save_base

NAMES = json.dumps([TINY])


def ask(client: TestClient, content: bytes, models: str = NAMES) -> Any:
    """Send a file to be scored."""
    return client.post("/v1/ftpipe/losses", data={"models": models}, files={"file": ("train.jsonl", content)})


def lines(count: int) -> bytes:
    """A chat file."""
    return "".join(json.dumps(row) + "\n" for row in rows(count)).encode()


@pytest.fixture
def tiny_client(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """A server whose base is a real, tiny model."""
    save_base(tmp_path / "models" / TINY)
    return make_client(models_dir=tmp_path / "models")


@pytest.mark.slow
def test_every_row_gets_its_loss_and_the_file_is_gone(tiny_client: TestClient, tmp_path: Path) -> None:
    """Progress first, then rows by line."""
    answer = ask(tiny_client, lines(6))
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert events[0] == {"done": 0, "total": 6}
    assert {"done": 6, "total": 6} in events
    assert [row["line"] for row in events[-1]["rows"]] == [1, 2, 3, 4, 5, 6]
    assert all(row["tokens"] > 1 and 2 < row["losses"][0] < 50 for row in events[-1]["rows"])
    assert answer.text.endswith("data: [DONE]\n\n")
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("models", "status"),
    [('["nobody"]', 404), ("[]", 400), ("nobody", 400), ("[1]", 400), (json.dumps([TINY] * 9), 400)],
)
def test_wrong_names_are_refused_before_anything_starts(client: TestClient, models: str, status: int) -> None:
    """With the parameter that is at fault."""
    answer = ask(client, lines(1), models)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, "models" if status == 400 else "model")


def test_models_of_two_bases_are_not_compared(client: TestClient) -> None:
    """Their tokens are not the same, so their losses per token are not either."""
    answer = ask(client, lines(1), json.dumps([TINY, "org/name"]))
    assert (answer.status_code, "one base" in answer.text) == (400, True)
    missing = client.post("/v1/ftpipe/losses", files={"other": ("a", b"x")}, data={"models": NAMES})
    assert missing.json()["error"]["param"] == "file"


@pytest.mark.slow
def test_whoever_goes_away_ends_the_process(tmp_path: Path) -> None:
    """A second file has to wait meanwhile; afterwards it is its turn (its fault is named), and no copy stays."""
    save_base(tmp_path / "models" / TINY)
    house = build(ServeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"), Ports(bases=FakeBases()))
    losses = Losses(house)

    def call(content: bytes) -> Any:
        sent = house.layout.incoming / "sent"
        sent.write_bytes(content)
        return losses.rank(Call("local", body={"models": NAMES}, file=ReceivedFile(sent, "train.jsonl", 1, ""))).events

    events = call(lines(100))
    assert next(events).startswith('data: {"done": 0')
    with pytest.raises(ApiError, match="Another file"):
        call(b"")
    events.close()
    with pytest.raises(ApiError, match="line 3") as refused:
        call(lines(2) + b'{"messages": [{"role": "user", "content": "hi"}]}\n')
    assert (refused.value.status, refused.value.body["error"]["param"]) == (400, "file")
    (house.layout.incoming / "sent").unlink()
    assert [path.name for path in house.layout.incoming.iterdir()] == []
    house.close()
