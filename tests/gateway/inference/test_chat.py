"""Chats that an inference server answers, with OpenAI's own client and a server with vLLM's adapter routes."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2
import openai
import pytest

from ftpipe.server.settings import ShadowPair, ShadowSettings
from tests.fakes.chat_host import SECONDS, Exchange
from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.inference.conftest import (
    EARLIER_STEP,
    MakeServer,
    adapter_name,
    add_model,
    health,
    wait_until,
)
from tests.gateway.live_server import LiveServer

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def post(server: LiveServer, model: str, **fields: Any) -> httpx2.Response:
    """Send a chat as plain JSON."""
    url = f"http://127.0.0.1:{server.address[1]}/v1/chat/completions"
    return httpx2.post(url, json={"model": model, "messages": MESSAGES, **fields}, timeout=SECONDS)


def text_of(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_chat_with_tuned_model_loads_its_adapter_once(make_server: MakeServer, host: InferenceHost) -> None:
    """Checkpoints and base models are other models there; clients see the names of this server only."""
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    for _ in range(2):
        response = post(server, name)
        assert text_of(response) == f"answer of {adapter_name(host, 'ftjob-a')}"
        assert response.json()["model"] == name
    checkpoint = f"{name}:ckpt-step-{EARLIER_STEP}"
    assert text_of(post(server, checkpoint)) == f"answer of {adapter_name(host, 'ftjob-a', EARLIER_STEP)}"
    assert text_of(post(server, BASE)) == f"answer of {BASE}"
    assert [verb for verb, _ in host.admin] == ["load", "load"]
    assert set(post(server, name).json()) == {"id", "object", "created", "model", "choices", "usage"}
    assert server.engine.requests == []


def test_chat_with_openai_name_is_answered_by_the_default_base(make_server: MakeServer) -> None:
    assert post(make_server(), "gpt-4o-mini").json()["model"] == BASE


def test_chat_streams_with_our_id_and_name(make_server: MakeServer, host: InferenceHost) -> None:
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    stream = server.client().chat.completions.create(model=name, messages=MESSAGES, stream=True)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == f"answer of {adapter_name(host, 'ftjob-a')}"
    assert {chunk.model for chunk in chunks} == {name}
    (chat_id,) = {chunk.id for chunk in chunks}
    assert chat_id.startswith("chatcmpl-")


def test_chat_of_another_owner_is_not_found(make_server: MakeServer, host: InferenceHost) -> None:
    server = make_server()
    name = add_model(server.context, "ftjob-a", owner="anna")
    response = post(server, name)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert host.chats == [] and host.admin == []


def test_sampling_fields_are_passed_and_those_of_the_inference_server_are_not(
    make_server: MakeServer, host: InferenceHost
) -> None:
    """A client cannot choose another owner's adapter, connect to other machines, or replace the template."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    passed = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "tools": tools,
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "max_completion_tokens": 5,
        "n": 2,
        "logit_bias": {"5": 1},
    }
    server = make_server()
    assert post(server, BASE, **passed, metadata={"a": "b"}, user="someone").status_code == 200
    assert host.chats[-1].body == {"model": BASE, "messages": MESSAGES, **passed}
    for name, value in {
        "lora_path": "ftpipe-1-ftjob-b-1",
        "custom_logit_processor": "code",
        "kv_transfer_params": {"remote_host": "10.0.0.1"},
        "bootstrap_host": "10.0.0.1",
        "chat_template": "{{ 1 }}",
    }.items():
        post(server, BASE, **{name: value})
        assert name not in host.chats[-1].body


def test_parameters_of_other_servers_mean_the_same_there(make_server: MakeServer, host: InferenceHost) -> None:
    """Open WebUI sends Ollama's name of the repetition penalty, which vLLM and SGLang do not know."""
    assert post(make_server(), BASE, repeat_penalty=1.1, num_ctx=4096).status_code == 200
    assert host.chats[-1].body == {"model": BASE, "messages": MESSAGES, "repetition_penalty": 1.1}


def test_messages_are_passed_as_text_with_the_roles_of_templates(make_server: MakeServer, host: InferenceHost) -> None:
    server = make_server()
    parts = [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert post(server, BASE, messages=parts).status_code == 200
    assert host.chats[0].body["messages"] == [{"role": "system", "content": "ab"}]
    image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    response = post(server, BASE, messages=[{"role": "user", "content": [image]}])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_content")
    assert len(host.chats) == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_forgotten_adapter_is_loaded_again_and_the_chat_repeated_once(
    make_server: MakeServer, host: InferenceHost, api: Any, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpipe.gateway.inference.server.POLL_SECONDS", 3600.0)
    host.api = api
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    assert post(server, name).status_code == 200
    host.forget()
    response = post(server, name, stream=streamed)
    assert response.status_code == 200 and "answer" in response.text
    assert [verb for verb, _ in host.admin] == ["load", "load"]
    host.script = [lambda exchange: exchange.json({"error": {"message": "gone", "code": 404}}, 404)] * 2
    response = post(server, name, stream=streamed)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "model_unavailable")
    assert host.script == []


def test_sglang_names_the_adapter_after_its_base(make_server: MakeServer, host: InferenceHost) -> None:
    host.api = "sglang"
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    response = post(server, name)
    adapter = adapter_name(host, "ftjob-a")
    assert text_of(response) == f"answer of {adapter}"
    assert host.chats[0].body["model"] == f"{BASE}:{adapter}"


def test_base_model_under_another_name(make_server: MakeServer, host: InferenceHost) -> None:
    """Neither the other name nor that of the adapter is in an error."""
    host.base = "org/their-name-of-it"
    server = make_server(inference={"base_names": {BASE: "org/their-name-of-it"}})
    assert text_of(post(server, BASE)) == "answer of org/their-name-of-it"
    name = add_model(server.context, "ftjob-a")
    assert post(server, name).status_code == 200
    adapter = adapter_name(host, "ftjob-a")
    message = f"{adapter} of org/their-name-of-it at {host.url} has a maximum context length of 9 tokens"
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    host.script = [lambda exchange: exchange.json({"error": error}, 400)]
    response = post(server, name)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    text = response.json()["error"]["message"]
    assert "maximum context length of 9 tokens" in text
    assert not any(hidden in text for hidden in (adapter, "their-name", str(host.port)))


def test_base_model_that_is_not_there(make_server: MakeServer, host: InferenceHost) -> None:
    """The client does not see the address; the log says what to do."""
    host.base = "org/something-else"
    response = post(make_server(), BASE)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert str(host.port) not in response.text and "something-else" not in response.text


def test_died_while_streaming_is_an_error_event_and_not_repeated(make_server: MakeServer, host: InferenceHost) -> None:
    def dies(exchange: Exchange) -> None:
        exchange.head(200, "text/event-stream")
        exchange.event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "a"}}]})

    host.script = [dies]
    response = post(make_server(), BASE, stream=True)
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert json.loads(events[-1])["error"]["code"] == "model_unavailable"
    assert len(host.chats) == 1


@pytest.mark.parametrize("status", [500, 502])
def test_failed_chat_is_not_repeated(make_server: MakeServer, host: InferenceHost, status: int) -> None:
    """Something may have been computed."""
    host.script = [lambda exchange: exchange.json({"error": {"message": "broken"}}, status)]
    assert post(make_server(), BASE).status_code == 502
    assert len(host.chats) == 1


def test_restarted_server_is_used_again(make_server: MakeServer, host: InferenceHost) -> None:
    """While it is down, clients get 502 or 503, and afterwards an answer with the adapter loaded again."""
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    assert post(server, name).status_code == 200
    host.__exit__(None, None, None)
    assert post(server, name).status_code in (502, 503)
    wait_until(lambda: health(server)["inference"]["status"] == "unreachable")
    host.forget()
    host.__enter__()
    assert text_of(post(server, name)) == f"answer of {adapter_name(host, 'ftjob-a')}"
    wait_until(lambda: health(server)["inference"] == {"status": "ok", "adapters": 1})


def test_requests_that_come_meanwhile_wait_for_the_same_load(make_server: MakeServer, host: InferenceHost) -> None:
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    has_begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        has_begun.set()
        assert may_end.wait(SECONDS)

    host.before_load = slow
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(post(server, name).status_code)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert has_begun.wait(SECONDS)
    assert text_of(post(server, BASE)) == f"answer of {BASE}"  # others do not wait
    may_end.set()
    for thread in threads:
        thread.join()
    assert results == [200, 200, 200]
    assert [verb for verb, _ in host.admin] == ["load"]


@pytest.mark.parametrize("streamed", [False, True])
def test_stored_completion_is_stored_here(make_server: MakeServer, host: InferenceHost, streamed: bool) -> None:
    """With our names, for its owner, and never at the inference server."""
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    response = post(server, name, store=True, metadata={"run": "1"}, stream=streamed)
    assert response.status_code == 200
    assert "store" not in host.chats[0].body
    (stored,) = server.client().chat.completions.list(metadata={"run": "1"})
    assert (stored.model, stored.choices[0].finish_reason) == (name, "stop")
    assert stored.choices[0].message.content == f"answer of {adapter_name(host, 'ftjob-a')}"
    assert stored.id in response.text
    post(server, name, stream=streamed)
    assert len(list(server.client().chat.completions.list())) == 1


def test_shadow_traffic_is_answered_there(make_server: MakeServer, host: InferenceHost) -> None:
    """It costs nothing, so that it needs no price."""
    shadow = ShadowSettings(pairs=(ShadowPair(BASE, "gpt-4o-mini"),), share=1.0)
    server = make_server(shadow=shadow)
    assert post(server, BASE).status_code == 200
    assert server.context.shadow is not None
    assert server.context.shadow.wait_until_idle(SECONDS)
    assert len(host.chats) == 2
    with server.context.store.read() as tx:
        (pair,) = tx.shadow.pairs()
        assert (pair.chats, pair.unpaid) == (1, 0)


def test_key_goes_to_the_inference_server_only(make_server: MakeServer, host: InferenceHost) -> None:
    host.key = "sk-inference-0123456789"
    server = make_server(inference={"key": host.key, "key_env": "INFERENCE_KEY"})
    assert post(server, BASE).status_code == 200
    assert host.chats[0].headers["authorization"] == f"Bearer {host.key}"
    host.key = "another-0123456789"
    response = post(server, BASE)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "model_unavailable")
    assert "sk-inference" not in response.text


def test_redirect_is_not_followed(make_server: MakeServer, host: InferenceHost) -> None:
    host.script = [lambda exchange: exchange.head(307, "text/plain", location=f"{host.url}/v1/elsewhere")]
    assert post(make_server(), BASE).status_code == 502
    assert len(host.chats) == 1


def test_chat_that_another_server_forwarded_is_answered_but_not_twice(
    make_server: MakeServer, host: InferenceHost
) -> None:
    """A route of another server of ftpipe may lead here; an inference server that is a server of ftpipe may not."""
    server = make_server()
    url = f"http://127.0.0.1:{server.address[1]}/v1/chat/completions"
    for value, status in (("1", 200), ("2", 400)):
        body = {"model": BASE, "messages": MESSAGES}
        response = httpx2.post(url, json=body, headers={"x-ftpipe-forwarded": value}, timeout=SECONDS)
        assert response.status_code == status
    assert host.chats[0].headers["x-ftpipe-forwarded"] == "2"


def test_openai_client_gets_errors_of_parameters(make_server: MakeServer) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        make_server().client().chat.completions.create(model=BASE, messages=MESSAGES, temperature=9)
