"""The inference server is looked at regularly: restarts, deleted models, and what is wrong."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import httpx2
import pytest

from ftpipe.server.process_control import inference_status
from tests.fakes.chat_host import SECONDS
from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.inference.conftest import MakeServer, adapter_name, add_model, health, wait_until
from tests.gateway.live_server import LiveServer

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(server: LiveServer, model: str) -> None:
    url = f"http://127.0.0.1:{server.address[1]}/v1/chat/completions"
    assert httpx2.post(url, json={"model": model, "messages": MESSAGES}, timeout=SECONDS).status_code == 200


def delete(server: LiveServer, name: str) -> None:
    url = f"http://127.0.0.1:{server.address[1]}/v1/models/{name}"
    assert httpx2.delete(url, timeout=SECONDS).status_code == 200


@pytest.mark.parametrize("api", ["vllm", "sglang"])
def test_deleted_model_is_unloaded_and_others_stay(make_server: MakeServer, host: InferenceHost, api: str) -> None:
    host.api = "sglang" if api == "sglang" else "vllm"
    host.adapters["of-somebody-else"] = "/x"
    server = make_server()
    first, second = add_model(server.context, "ftjob-a"), add_model(server.context, "ftjob-b")
    chat(server, first)
    chat(server, second)
    kept = adapter_name(host, "ftjob-b")
    delete(server, first)
    wait_until(lambda: sorted(host.adapters) == sorted([kept, "of-somebody-else"]))


def test_model_that_was_deleted_while_the_inference_server_was_down_is_unloaded(
    make_server: MakeServer, host: InferenceHost
) -> None:
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    chat(server, name)
    host.__exit__(None, None, None)
    wait_until(lambda: health(server)["inference"]["status"] == "unreachable")
    delete(server, name)
    host.__enter__()
    wait_until(lambda: host.adapters == {})


def test_restarted_ftpipe_knows_the_adapters_that_are_loaded(make_server: MakeServer, host: InferenceHost) -> None:
    """They are used without loading them again, and unloaded when their model is deleted."""
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    chat(server, name)
    server.stop()
    assert len(host.adapters) == 1
    again = make_server()
    wait_until(lambda: health(again)["inference"] == {"status": "ok", "adapters": 1})
    chat(again, name)
    assert [verb for verb, _ in host.admin] == ["load"]
    delete(again, name)
    wait_until(lambda: host.adapters == {})


def test_server_whose_adapters_cannot_be_changed_is_failing(
    make_server: MakeServer, host: InferenceHost, tmp_path: Path
) -> None:
    """Base models are answered all the same; the file for the owner says what to do, and is not for others."""
    host.loads_adapters = False
    server = make_server()
    wait_until(lambda: health(server)["inference"]["status"] == "failing")
    chat(server, BASE)
    file = tmp_path / "data" / "inference.json"
    wait_until(file.exists)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert inference_status(server.context.data_dir, pid=1) is None  # written by another process
    state = inference_status(server.context.data_dir, os.getpid())
    assert state is not None and state.url == host.url
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in state.hint
    host.loads_adapters = True
    wait_until(lambda: json.loads(file.read_text())["status"] == "ok")
    assert health(server)["inference"]["status"] == "ok"
    server.stop()
    assert not file.exists()


def test_health_does_not_show_the_address(make_server: MakeServer, host: InferenceHost) -> None:
    server = make_server()
    host.__exit__(None, None, None)
    wait_until(lambda: health(server)["inference"]["status"] == "unreachable")
    assert str(host.port) not in json.dumps(health(server))
    host.__enter__()


def test_server_that_starts_later_is_used(make_server: MakeServer, host: InferenceHost) -> None:
    host.__exit__(None, None, None)
    server = make_server()
    wait_until(lambda: health(server)["inference"]["status"] == "unreachable")
    host.__enter__()
    chat(server, BASE)
