"""Batches whose answers an inference server computes."""

from __future__ import annotations

import json

import pytest

from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.inference.conftest import MakeServer, adapter_name, add_model
from tests.server.api.test_batches import RESPONSES, content, create, line, wait_until


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions"])
def test_batch_is_answered_there(make_server: MakeServer, host: InferenceHost, endpoint: str) -> None:
    server = make_server()
    name = add_model(server.context, "ftjob-a")
    client = server.client()
    lines = [line(f"r{index}", url=endpoint, model=name) for index in range(4)]
    batch = wait_until(client, create(client, *lines, endpoint=endpoint).id, "completed")
    answers = content(client, batch.output_file_id)
    assert [one["custom_id"] for one in answers] == ["r0", "r1", "r2", "r3"]
    assert all(f"answer of {adapter_name(host, 'ftjob-a')}" in json.dumps(one) for one in answers)
    assert {one["response"]["body"]["model"] for one in answers} == {name}
    assert server.engine.requests == []


def test_batch_of_responses_is_refused(make_server: MakeServer, host: InferenceHost) -> None:
    """For each request, with what can be used instead."""
    client = make_server().client()
    batch = wait_until(client, create(client, line("a", url=RESPONSES, model=BASE), endpoint=RESPONSES).id, "completed")
    (error,) = content(client, batch.error_file_id)
    assert error["response"]["body"]["error"]["code"] == "unsupported_model"
    assert "/chat/completions" in error["response"]["body"]["error"]["message"]
    assert host.chats == []
