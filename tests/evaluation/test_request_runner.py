"""Requests are rate limited, retried if that is safe, cached one by one, and stopped after fatal errors."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InterruptedRunError,
    LocalStateError,
    ProviderError,
    RateLimitError,
    RequestRefusedError,
    ResponseTimeoutError,
)
from ftpipe.evaluation.request_runner import RateLimiter, RequestRunner
from ftpipe.evaluation.response_cache import Request, ResponseCache
from ftpipe.records.evaluation import Answer, SamplingParams
from tests.evaluation.fakes import ScriptedChat


def request(number: int, *, sample: int = 0) -> Request:
    return Request(
        model="m", messages=({"role": "user", "content": f"q{number}"},), sampling=SamplingParams(seed=7), sample=sample
    )


def echo() -> ScriptedChat:
    """An endpoint that repeats the last message."""
    return ScriptedChat(lambda _model, messages: str(messages[-1]["content"]))


def make_runner(chat: ScriptedChat, cache: ResponseCache | None = None, **settings: object) -> RequestRunner:
    """A runner that does not sleep."""
    return RequestRunner(chat, cache or ResponseCache(), sleep=lambda _seconds: None, **settings)  # type: ignore[arg-type]  # test settings


def test_runner_gives_each_request_its_answer() -> None:
    requests = [request(number) for number in range(40)]
    answers = make_runner(echo(), concurrency=8).run(requests)
    assert [answers[one.key].text for one in requests] == [f"q{number}" for number in range(40)]


def test_runner_sends_equal_requests_once() -> None:
    """Samples differ by their seed."""
    chat = echo()
    make_runner(chat).run([request(1), request(1), request(1, sample=1)])
    assert sorted(setting[2] or 0 for setting in chat.settings) == [7, 8]


@pytest.mark.parametrize("fault", [ConnectionFailedError("no"), RateLimitError("slow"), ProviderError("500")])
def test_runner_retries_transient_errors(fault: ProviderError) -> None:
    """Three times, with growing waits."""
    waits: list[float] = []
    chat = ScriptedChat(lambda *_: "yes", [fault, fault, fault])
    answers = RequestRunner(chat, ResponseCache(), sleep=waits.append, concurrency=1).run([request(1)])
    assert [answer.text for answer in answers.values()] == ["yes"]
    assert len(waits) == 3
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 4


def test_runner_stops_after_the_last_attempt() -> None:
    """The hint says that earlier answers are cached."""
    chat = ScriptedChat(lambda *_: "yes", [None, *[ConnectionFailedError("down", "check the network")] * 4])
    with pytest.raises(ConnectionFailedError) as caught:
        make_runner(chat, concurrency=1).run([request(1), request(2), request(3)])
    assert "1 answers are cached" in caught.value.hint
    assert "check the network" in caught.value.hint


def test_runner_does_not_retry_fatal_errors() -> None:
    """The next request would fail as well."""
    chat = ScriptedChat(lambda *_: "yes", [AuthenticationError("no key")] * 9)
    with pytest.raises(AuthenticationError):
        make_runner(chat, concurrency=1).run([request(number) for number in range(9)])
    assert len(chat.requests) == 1


def test_runner_does_not_cache_a_refused_item() -> None:
    """The others continue, and the next run sends it again."""
    chat = ScriptedChat(lambda *_: "yes", [RequestRefusedError("too long")])
    cache = ResponseCache()
    answers = make_runner(chat, cache, concurrency=1).run([request(1), request(2)])
    assert [answer.error for answer in answers.values()] == ["too long", ""]
    assert cache.size == 1


def test_runner_resumes_from_the_cache(tmp_path: Path) -> None:
    """The second run sends only what is missing, also from another process."""
    requests = [request(number) for number in range(10)]
    first = ScriptedChat(lambda *_: "yes", [None] * 6 + [KeyboardInterrupt()])
    with pytest.raises(InterruptedRunError, match="6 answers are cached"):
        make_runner(first, ResponseCache(tmp_path, endpoint="e"), concurrency=1).run(requests)
    second = echo()
    answers = make_runner(second, ResponseCache(tmp_path, endpoint="e")).run(requests)
    assert len(second.requests) == 4
    assert sum(answer.from_cache for answer in answers.values()) == 6


def test_runner_answers_interrupt_while_requests_are_under_way() -> None:
    """Ctrl-C does not wait for an endpoint that takes minutes; what is answered stays cached."""
    release, started = threading.Event(), threading.Barrier(3)

    def wait(_model: str, messages: Sequence[Mapping[str, Any]]) -> str:
        if messages[-1]["content"] == "q0":
            return "yes"
        started.wait(60)
        release.wait(60)
        return "late"

    def interrupt() -> None:
        started.wait(60)  # both requests are at the endpoint
        os.kill(os.getpid(), signal.SIGINT)

    cache = ResponseCache()
    cache.put(request(0).key, Answer(text="yes"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(InterruptedRunError, match="1 answers are cached"):
            make_runner(ScriptedChat(wait), cache, concurrency=2).run([request(number) for number in range(3)])
        assert not release.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
        release.set()


def test_runner_does_not_retry_a_slow_endpoint() -> None:
    """The client has waited for it several times already."""
    chat = ScriptedChat(lambda *_: "yes", [ResponseTimeoutError("slow")] * 9)
    with pytest.raises(ResponseTimeoutError, match="slow"):
        make_runner(chat, concurrency=1).run([request(1)])
    assert len(chat.requests) == 1


def test_cache_is_separate_for_each_endpoint(tmp_path: Path) -> None:
    """The same model name at another endpoint is another model."""
    ResponseCache(tmp_path, endpoint="a").put("k", Answer(text="x"))
    assert ResponseCache(tmp_path, endpoint="b").get("k") is None


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_cache_skips_a_truncated_line(tmp_path: Path, cut: int) -> None:
    """The lines before it are read, and the next one is appended on a new line."""
    cache = ResponseCache(tmp_path)
    for key in ("a", "b"):
        cache.put(key, Answer(text=key))
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-cut])
    again = ResponseCache(tmp_path)
    again.put("c", Answer(text="c"))
    last = ResponseCache(tmp_path)
    assert last.get("a") == Answer(text="a")
    assert last.get("c") == Answer(text="c")


def test_cache_file_is_private_and_follows_no_link(tmp_path: Path) -> None:
    """Answers may contain private text."""
    cache = ResponseCache(tmp_path / "cache")
    cache.put("a", Answer(text="x"))
    assert cache.path is not None
    assert cache.path.stat().st_mode & 0o777 == 0o600
    planted = ResponseCache(tmp_path / "other", endpoint="x")
    assert planted.path is not None
    planted.path.parent.mkdir()
    planted.path.symlink_to(tmp_path / "target")
    with pytest.raises(LocalStateError, match="cannot be written"):
        planted.put("a", Answer())


def test_cache_survives_invalid_lines_and_surrogates(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path)
    cache.put("a", Answer(text="\ud800 \x00 \u2028"))
    assert cache.path is not None
    cache.path.write_bytes(b'\xff\xfe\n[]\n{"key": 1}\n' + cache.path.read_bytes())
    assert ResponseCache(tmp_path).get("a") == Answer(text="\ud800 \x00 \u2028")


def test_rate_limiter_spaces_requests() -> None:
    """Ten per minute are six seconds apart."""
    now = [100.0]
    starts: list[float] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    limiter = RateLimiter(10, sleep=sleep, clock=lambda: now[0])
    for _ in range(4):
        limiter.acquire()
        starts.append(now[0])
    assert starts == [100, 106, 112, 118]


def test_runner_keeps_to_the_concurrency() -> None:
    """Counted while they run."""
    running, peak, lock = [0], [0], threading.Lock()

    def reply(_model: str, _messages: object) -> str:
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        threading.Event().wait(0.01)
        with lock:
            running[0] -= 1
        return "yes"

    make_runner(ScriptedChat(reply), concurrency=3).run([request(number) for number in range(30)])
    assert peak[0] == 3
