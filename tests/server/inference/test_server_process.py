"""The server around an inference process: what clients get when it crashes, and what is not imported beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.server.http import create_app
from ftpipe.server.inference.remote_engine import RemoteEngine
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.conftest import assert_openai_error
from tests.server.fakes import TINY, FakeBaseModels
from tests.training.tiny_model import save_base


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A server whose engine is a process that does what messages say."""
    command = (sys.executable, "-m", "tests.server.inference.fake_engine_process", str(tmp_path))
    engine = RemoteEngine(command, lambda: False)
    context = build_context(ServeSettings(data_dir=tmp_path / "data"), engine=engine, base_models=FakeBaseModels())
    with TestClient(create_app(context), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
    assert engine.pid is None


def chat(text: str, **changes: Any) -> dict[str, Any]:
    """A chat of one message."""
    return {"model": TINY, "messages": [{"role": "user", "content": text}], **changes}


def test_chat_is_503_when_inference_process_crashes(client: TestClient) -> None:
    """A stream that has begun ends with the error; the server answers others, and chats again."""
    with client.stream("POST", "/v1/chat/completions", json=chat("crash", stream=True)) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
    assert events[1]["choices"][0]["delta"]["content"] == "last words "
    assert events[-1]["error"]["type"] == "server_error"
    assert "the inference process was ended by SIGSEGV" in events[-1]["error"]["message"]
    crashed = client.post("/v1/chat/completions", json=chat("crash exit"))
    assert (crashed.status_code, crashed.json()["error"]["code"]) == (503, "model_unavailable")
    assert_openai_error(crashed)
    assert client.get("/v1/models").status_code == 200
    answer = client.post("/v1/chat/completions", json=chat("count a 3")).json()
    assert answer["choices"][0]["message"]["content"] == "0 1 2 "


def test_chat_reports_errors_of_inference_process(client: TestClient) -> None:
    """As those of an engine in the server's process: those of the request are 400, and a bug shows no details."""
    for name, status, param in (
        ("ContextLengthError", 400, "messages"),
        ("GrammarError", 400, "tools"),
        ("LogitBiasError", 400, "logit_bias"),
        ("LocalStateError", 503, "model"),
    ):
        answer = client.post("/v1/chat/completions", json=chat(f"raise {name}"))
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), name
    bug = client.post("/v1/chat/completions", json=chat("raise ValueError"))
    assert bug.status_code == 500
    assert "a bug" not in bug.text


CHAT = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from ftpipe.server.http import create_app
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings

folder = Path(sys.argv[1])
context = build_context(ServeSettings(data_dir=folder / "data", models_dir=folder / "models"))
body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "logprobs": True}
body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
with TestClient(create_app(context), base_url="http://127.0.0.1") as client:
    answer = client.post("/v1/chat/completions", json=body)
    assert 1 <= answer.json()["usage"]["completion_tokens"] <= 3, answer.text
    counted = client.post("/v1/responses/input_tokens", json={"model": "tiny", "input": "hi"})
    assert counted.json()["input_tokens"] == answer.json()["usage"]["prompt_tokens"], counted.text
    rejected = client.post("/v1/chat/completions", json=body | {"logit_bias": {"999999999": 1}})
    assert rejected.json()["error"]["param"] == "logit_bias", rejected.text
print(*sorted({"torch", "transformers", "peft", "numpy", "tokenizers"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_chat_imports_no_torch_in_server(tmp_path: Path) -> None:
    """A real model answers, and the server's process has none of its libraries."""
    save_base(tmp_path / "models" / "tiny")
    ran = subprocess.run(
        [sys.executable, "-c", CHAT, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.split() == []
