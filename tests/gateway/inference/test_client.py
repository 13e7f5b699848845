"""Calls to vLLM and SGLang that load adapters, and what their refusals say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ftpipe.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionFailedError,
    FtpipeError,
    InvalidResponseError,
    NotFoundError,
    RequestRefusedError,
)
from ftpipe.gateway.inference import client as client_module
from ftpipe.gateway.inference.client import AdapterLimitError, InferenceClient
from tests.fakes.chat_host import ChatHost
from tests.fakes.vllm import BASE, InferenceHost

Result = TypeVar("Result")


def run(url: str, call: Callable[[InferenceClient], Awaitable[Result]], key: str = "", key_env: str = "") -> Result:
    """Make a call, after the models were listed."""

    async def listed_and_called() -> Result:
        client = InferenceClient(url, key, key_env)
        try:
            await client.models()
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(listed_and_called())


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    """The folder of an adapter."""
    (tmp_path / "adapter_config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_client_loads_twice_and_unloads_once(host: InferenceHost, adapter: str, api: Any, suffix: str) -> None:
    """An adapter that is loaded already is no error: another request was first, or this server was started again."""
    host.api = api

    async def call(client: InferenceClient) -> list[bool]:
        await client.load("one", adapter)
        await client.load("one", adapter)
        assert host.adapters == {"one": adapter}
        return [await client.unload("one"), await client.unload("one")]

    assert run(host.url + suffix, call) == [True, False]


@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_client_names_the_folder_that_is_not_found(host: InferenceHost, api: Any) -> None:
    host.api = api
    with pytest.raises(NotFoundError, match="/not/there") as raised:
        run(host.url, lambda client: client.load("one", "/not/there"))
    assert host.url in raised.value.message and "--inference-path" in raised.value.hint


def test_client_knows_a_limit_of_adapters(host: InferenceHost, adapter: str) -> None:
    host.api, host.max_loaded = "sglang", 0
    with pytest.raises(AdapterLimitError, match="Maximum number") as raised:
        run(host.url, lambda client: client.load("one", adapter))
    assert "--max-loaded-loras" in raised.value.hint


def test_client_says_how_to_start_vllm_with_adapters(host: InferenceHost, adapter: str) -> None:
    host.loads_adapters = False
    assert run(host.url, InferenceClient.can_load) is False
    with pytest.raises(RequestRefusedError) as raised:
        run(host.url, lambda client: client.load("one", adapter))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in raised.value.hint


def test_client_sees_that_adapters_can_be_loaded(host: InferenceHost) -> None:
    assert run(host.url, InferenceClient.can_load) is True
    assert host.admin == []


def test_client_names_the_variable_of_a_wrong_key(host: InferenceHost) -> None:
    host.key = "right"
    for key, key_env, named in (("wrong", "MY_KEY", "MY_KEY"), ("", "", "without a key")):
        with pytest.raises(AuthenticationError, match=named) as raised:
            run(host.url, InferenceClient.models, key, key_env)
        assert host.url in raised.value.message and "wrong" not in str(raised.value)
    assert [model.name for model in run(host.url, InferenceClient.models, "right")] == [BASE]


def test_client_says_that_nothing_listens() -> None:
    with InferenceHost() as stopped:
        url = stopped.url
    with pytest.raises(ConnectionFailedError, match=url) as raised:
        run(url, InferenceClient.models)
    assert f"curl {url}/v1/models" in raised.value.hint


@pytest.mark.parametrize(
    ("cards", "error", "text"),
    [
        ("no list", InvalidResponseError, "list of models"),
        ([{"id": BASE, "owned_by": "ftpipe"}], ConfigError, "server of ftpipe itself"),
        ([{"id": BASE, "owned_by": {}}, {"id": "x", "owned_by": "ftpipe"}], ConfigError, "server of ftpipe itself"),
        (["x" * 3000], InvalidResponseError, "more than"),
    ],
)
def test_client_refuses_other_servers(
    host: InferenceHost, monkeypatch: pytest.MonkeyPatch, cards: Any, error: type[FtpipeError], text: str
) -> None:
    monkeypatch.setattr(client_module, "MAX_RESPONSE_BYTES", 2000)
    monkeypatch.setattr(host, "cards", lambda: cards)
    with pytest.raises(error, match=text):
        run(host.url, InferenceClient.models)


def test_client_refuses_a_server_without_models(chat_host: ChatHost) -> None:
    with pytest.raises(InvalidResponseError, match="answered 501"):
        run(chat_host.base_url, InferenceClient.models)


def test_client_does_not_follow_redirects(host: InferenceHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other server would get the key."""
    with InferenceHost() as other:
        monkeypatch.setattr(host, "redirect", f"{other.url}/v1/models")
        with pytest.raises(ConfigError, match="redirects to"):
            run(host.url, InferenceClient.models, "a-key")


def test_client_gives_up_a_server_that_does_not_answer(
    host: InferenceHost, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LOAD_SECONDS", 0.05)
    host.before_load = host.is_closing.wait
    with pytest.raises(ConnectionFailedError, match="did not answer"):
        run(host.url, lambda client: client.load("one", adapter))
