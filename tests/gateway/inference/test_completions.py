"""Completions that an inference server answers."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.fakes.chat_host import SECONDS
from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.inference.conftest import MakeServer, adapter_name, add_model
from tests.gateway.live_server import LiveServer


def post(server: LiveServer, model: str, **fields: Any) -> httpx2.Response:
    """Send a completion as plain JSON."""
    url = f"http://127.0.0.1:{server.address[1]}/v1/completions"
    return httpx2.post(url, json={"model": model, "prompt": "once", **fields}, timeout=SECONDS)


def test_completion_is_answered_there(make_server: MakeServer, host: InferenceHost) -> None:
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    fields = {"prompt": ["a", "b"], "echo": True, "logprobs": 2, "max_tokens": 4, "top_k": 3}
    answer = post(server, name, user="someone", repeat_penalty=1.1, **fields).json()
    assert answer["choices"][0]["text"] == f"answer of {adapter_name(host, 'ftjob-a')}"
    assert (answer["model"], answer["object"], answer["id"][:5]) == (name, "text_completion", "cmpl-")
    assert (host.chats[0].path, host.chats[0].body) == (
        "/v1/completions",
        {"model": adapter_name(host, "ftjob-a"), "repetition_penalty": 1.1, **fields},
    )


def test_completion_streams(make_server: MakeServer) -> None:
    client = make_server().client()
    chunks = list(client.completions.create(model=BASE, prompt="once", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == f"answer of {BASE}"


def test_completion_is_not_stored(make_server: MakeServer) -> None:
    server = make_server()
    post(server, BASE, store=True)
    assert list(server.client().chat.completions.list()) == []


@pytest.mark.parametrize("fields", [{"temperature": 9}, {"lora_path": "x"}])
def test_completion_with_wrong_fields_is_refused_here(
    make_server: MakeServer, host: InferenceHost, fields: dict[str, Any]
) -> None:
    assert post(make_server(), BASE, **fields).status_code == 400
    assert host.chats == []
