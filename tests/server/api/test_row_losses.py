"""``POST /ftpipe/losses``: rows are scored by a separate process and streamed, and no file is left behind."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from ftpipe.errors import NotFoundError, RequestRefusedError
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.server.http import create_app
from ftpipe.server.protocol import ApiError, ApiRequest, ReceivedUpload
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import TINY, FakeBaseModels
from tests.training.tiny_model import rows, save_base

NAMES = json.dumps([TINY])


def post(client: TestClient, content: bytes, models: str = NAMES) -> Any:
    """Send a file to be scored."""
    return client.post("/v1/ftpipe/losses", data={"models": models}, files={"file": ("train.jsonl", content)})


def lines(count: int) -> bytes:
    """A chat file."""
    return "".join(json.dumps(row) + "\n" for row in rows(count)).encode()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Provider]:
    """A server that listens, with a real, tiny model, and the client's side of it."""
    save_base(tmp_path / "models" / TINY)
    settings = ServeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    context = build_context(settings, base_models=FakeBaseModels())
    config = uvicorn.Config(create_app(context), log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        provider = open_openai(find_profile("local").model_copy(update={"base_url": url, "base_url_env": ""}), {})
        yield provider
        provider.close()
        server.should_exit = True
        thread.join()


@pytest.mark.slow
def test_row_losses_scores_each_row_and_deletes_file(endpoint: Provider, tmp_path: Path) -> None:
    """Over HTTP: progress first, then rows by line."""
    data = tmp_path / "train.jsonl"
    data.write_bytes(lines(6))
    progress: list[tuple[int, int]] = []
    rows_with_losses = endpoint.models.losses(data, [TINY], on_rows=lambda done, total: progress.append((done, total)))
    assert (progress[0], progress[-1]) == ((0, 6), (6, 6))
    assert [row.line for row in rows_with_losses] == [1, 2, 3, 4, 5, 6]
    assert all(row.tokens > 1 and 2 < row.losses[0] < 50 for row in rows_with_losses)
    assert list((tmp_path / "data" / "incoming").iterdir()) == []
    with pytest.raises(NotFoundError, match="nobody"):
        endpoint.models.losses(data, ["nobody"], on_rows=lambda _done, _total: None)
    with pytest.raises(RequestRefusedError, match="models of one base") as refused:
        endpoint.models.losses(data, [TINY, "org/name"], on_rows=lambda _done, _total: None)
    assert "--baseline" in refused.value.hint


@pytest.mark.parametrize(
    ("models", "status"),
    [('["nobody"]', 404), ("[]", 400), ("nobody", 400), ("[1]", 400), (json.dumps([TINY] * 9), 400)],
)
def test_row_losses_refuses_wrong_model_names(client: TestClient, models: str, status: int) -> None:
    """The error names the parameter."""
    answer = post(client, lines(1), models)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, "models" if status == 400 else "model")


def test_row_losses_refuses_models_of_two_bases(client: TestClient) -> None:
    """Their tokens are not the same, so their losses per token are not either."""
    answer = post(client, lines(1), json.dumps([TINY, "org/name"]))
    assert (answer.status_code, "one base" in answer.text) == (400, True)
    missing = client.post("/v1/ftpipe/losses", files={"other": ("a", b"x")}, data={"models": NAMES})
    assert missing.json()["error"]["param"] == "file"


def test_row_losses_lowers_the_priority_of_its_own_session_only(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux the priority of a session's group is that of all its processes: it must not be the server's."""
    script = (
        "import json, os, time\n"
        "deadline = time.monotonic() + 30\n"
        "while os.nice(0) < 10 and time.monotonic() < deadline: time.sleep(0.01)\n"
        "print(json.dumps({'is_lower': os.nice(0) >= 10, 'leads_session': os.getsid(0) == os.getpid()}))"
    )
    monkeypatch.setattr("ftpipe.server.api.row_losses.COMMAND", (sys.executable, "-c", script))
    answer = post(client, lines(1))
    assert '{"is_lower": true, "leads_session": true}' in answer.text


@pytest.mark.slow
def test_row_losses_disconnect_ends_process(tmp_path: Path) -> None:
    """A second file is refused meanwhile; afterwards it is read, its error names the line, and no copy stays."""
    save_base(tmp_path / "models" / TINY)
    settings = ServeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    context = build_context(settings, base_models=FakeBaseModels())

    def call(content: bytes) -> Any:
        sent = context.data_dir.incoming / "sent"
        sent.write_bytes(content)
        return context.row_losses.score(
            ApiRequest("local", body={"models": NAMES}, file=ReceivedUpload(sent, "train.jsonl", 1, ""))
        ).pieces

    events = call(lines(100))
    assert next(events).startswith('data: {"done": 0')
    with pytest.raises(ApiError, match="Another file"):
        call(b"")
    events.close()
    with pytest.raises(ApiError, match="line 3") as refused:
        call(lines(2) + b'{"messages": [{"role": "user", "content": "hi"}]}\n')
    assert (refused.value.status, refused.value.body["error"]["param"]) == (400, "file")
    assert [path.name for path in context.data_dir.incoming.iterdir()] == []
    context.close()
