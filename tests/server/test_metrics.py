"""Prometheus' text format, and what is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ftpipe.inference.detokenizer import Delta
from ftpipe.server.metrics import Metric, ServerMetrics, to_text
from tests.server.conftest import MakeClient, create_job, wait_for
from tests.server.fakes import TINY

LINE = re.compile(r'[a-z_]+(\{([a-z_]+="[^"\\\n]*",?)+\})? [0-9.]+')


def sample(client: TestClient, name: str, **options: dict[str, str]) -> float:
    """The value of a sample, named with its labels."""
    [value] = [line.rpartition(" ")[2] for line in text(client, **options).splitlines() if line.startswith(f"{name} ")]
    return float(value)


def text(client: TestClient, **options: dict[str, str]) -> str:
    answer = client.get("/metrics", **options)  # type: ignore[arg-type]  # headers only
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


def test_text_format_is_exact() -> None:
    counter = Metric("a_total", "counter", "Things.")
    counter.add(3, kind="x", route="/v1/{id}")
    counter.add(0.5, kind='"\\\n')
    summary = Metric("b_seconds", "summary", "Time.")
    summary.add(1.25, "_sum")
    summary.add(2, "_count")
    assert to_text([counter, summary]) == (
        "# HELP a_total Things.\n"
        "# TYPE a_total counter\n"
        'a_total{kind="x",route="/v1/{id}"} 3\n'
        'a_total{kind="\\"\\\\\\n"} 0.500000\n'
        "# HELP b_seconds Time.\n"
        "# TYPE b_seconds summary\n"
        "b_seconds_sum 1.250000\n"
        "b_seconds_count 2\n"
    )


def test_metrics_count_requests_tokens_and_jobs(client: TestClient) -> None:
    wait_for(client, create_job(client)["id"], "succeeded")
    body = {"model": TINY, "messages": [{"role": "user", "content": "hi"}]}
    for streamed in (False, True):
        assert client.post("/v1/chat/completions", json={**body, "stream": streamed}).status_code == 200
    assert client.post("/v1/chat/completions", json={}).status_code == 400
    chats = 'method="POST",route="/v1/chat/completions"'
    assert sample(client, f'ftpipe_http_requests_total{{{chats},status="200"}}') == 2
    assert sample(client, f'ftpipe_http_requests_total{{{chats},status="400"}}') == 1
    assert sample(client, f"ftpipe_http_request_duration_seconds_count{{{chats}}}") == 3
    assert sample(client, 'ftpipe_tokens_total{kind="prompt",priority="interactive"}') == 14
    assert sample(client, 'ftpipe_tokens_total{kind="completion",priority="interactive"}') == 6
    assert sample(client, 'ftpipe_time_to_first_token_seconds_count{priority="interactive"}') == 2
    assert sample(client, 'ftpipe_generations_running{priority="interactive"}') == 0
    assert sample(client, 'ftpipe_jobs{status="succeeded"}') == 1
    assert sample(client, 'ftpipe_jobs{status="paused"}') == 0
    assert sample(client, 'ftpipe_resident_memory_bytes{process="server"}') > 1_000_000
    assert sample(client, "ftpipe_uptime_seconds") > 0
    assert {"generation", "forwarding", "losses", "graders"} <= set(re.findall(r'queue="(\w+)"', text(client)))


def test_metrics_are_lines_of_the_format_and_each_name_once(client: TestClient) -> None:
    lines = text(client).splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert [line for line in lines if not line.startswith("#") and not LINE.fullmatch(line)] == []


def test_metrics_labels_are_not_made_by_clients(client: TestClient) -> None:
    """Unknown paths and methods share one label, and ids are not in it."""
    for number in range(5):
        client.get(f"/nowhere/{number}")
        client.request(f"METHOD{number}", "/v1/files")
        client.get(f"/v1/files/file-{number}")
    shown = text(client)
    assert sample(client, 'ftpipe_http_requests_total{method="GET",route="other",status="404"}') == 5
    assert sample(client, 'ftpipe_http_requests_total{method="GET",route="/v1/files/{file_id}",status="404"}') == 5
    assert not re.search(r"nowhere|METHOD|file-\d", shown)


def test_metrics_need_a_key_if_the_server_has_keys(make_client: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("anna:sk-anna-0123456789\n")
    client = make_client(api_key_file=tmp_path / "keys")
    assert client.get("/metrics").status_code == 401
    assert sample(client, "ftpipe_uptime_seconds", headers={"Authorization": "Bearer sk-anna-0123456789"}) > 0


@pytest.mark.parametrize("closes", [True, False])
def test_generation_that_ends_early_is_not_running(closes: bool) -> None:
    """Whether its client leaves or it fails; the engine's iterator is closed."""
    closed: list[bool] = []

    def generate() -> Iterator[Delta]:
        try:
            yield Delta("a")
            message = "broken"
            raise ValueError(message)
        finally:
            closed.append(True)

    metrics = ServerMetrics()
    pieces = metrics.measure("batch", generate())
    next(pieces)
    assert 'ftpipe_generations_running{priority="batch"} 1\n' in to_text(metrics.collect())
    if closes:
        pieces.close()  # type: ignore[attr-defined]  # a generator
    else:
        with pytest.raises(ValueError, match="broken"):
            next(pieces)
    assert 'ftpipe_generations_running{priority="batch"} 0\n' in to_text(metrics.collect())
    assert closed == [True]
