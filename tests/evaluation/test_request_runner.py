"""Asking is paced, retried where that is safe, remembered one by one, and stops where going on is hopeless."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ftpipe.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InterruptedRunError,
    LocalStateError,
    ProviderError,
    RateLimitError,
    RequestRefusedError,
)
from ftpipe.evaluation.request_runner import RateLimiter, RequestRunner
from ftpipe.evaluation.response_cache import Request, ResponseCache
from ftpipe.records.evaluation import Answer, SamplingParams
from tests.evaluation.fakes import ScriptedChat


def request(number: int, *, sample: int = 0) -> Request:
    """A question of its own."""
    return Request(
        model="m", messages=({"role": "user", "content": f"q{number}"},), sampling=SamplingParams(seed=7), sample=sample
    )


def echo() -> ScriptedChat:
    """An endpoint that says what it was asked."""
    return ScriptedChat(lambda _model, messages: str(messages[-1]["content"]))


def asker(chat: ScriptedChat, memory: ResponseCache | None = None, **settings: object) -> RequestRunner:
    """An asker that never really sleeps."""
    return RequestRunner(chat, memory or ResponseCache(), sleep=lambda _seconds: None, **settings)  # type: ignore[arg-type]  # test settings


def test_every_request_gets_its_own_answer() -> None:
    """Also when many are under way at once."""
    requests = [request(number) for number in range(40)]
    answers = asker(echo(), concurrency=8).run(requests)
    assert [answers[one.key].text for one in requests] == [f"q{number}" for number in range(40)]


def test_equal_requests_are_asked_once_and_samples_apart() -> None:
    """Samples have seeds of their own."""
    chat = echo()
    asker(chat).run([request(1), request(1), request(1, sample=1)])
    assert sorted(setting[2] or 0 for setting in chat.settings) == [7, 8]


@pytest.mark.parametrize("fault", [ConnectionFailedError("no"), RateLimitError("slow"), ProviderError("500")])
def test_a_passing_fault_is_tried_again(fault: ProviderError) -> None:
    """Three times, with waits that grow."""
    waits: list[float] = []
    chat = ScriptedChat(lambda *_: "yes", [fault, fault, fault])
    answers = RequestRunner(chat, ResponseCache(), sleep=waits.append, concurrency=1).run([request(1)])
    assert [answer.text for answer in answers.values()] == ["yes"]
    assert len(waits) == 3
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 4


def test_a_fault_that_stays_stops_with_the_way_to_go_on() -> None:
    """What was answered before is kept and said."""
    chat = ScriptedChat(lambda *_: "yes", [None, *[ConnectionFailedError("down", "check the network")] * 4])
    with pytest.raises(ConnectionFailedError) as caught:
        asker(chat, concurrency=1).run([request(1), request(2), request(3)])
    assert "1 answers are kept" in caught.value.hint
    assert "check the network" in caught.value.hint


def test_a_refused_key_is_not_tried_again() -> None:
    """The next request would meet the same."""
    chat = ScriptedChat(lambda *_: "yes", [AuthenticationError("no key")] * 9)
    with pytest.raises(AuthenticationError):
        asker(chat, concurrency=1).run([request(number) for number in range(9)])
    assert len(chat.asked) == 1


def test_a_refused_item_is_an_answer_and_is_not_remembered() -> None:
    """Too long, filtered: the others go on, and another time it is asked again."""
    chat = ScriptedChat(lambda *_: "yes", [RequestRefusedError("too long")])
    memory = ResponseCache()
    answers = asker(chat, memory, concurrency=1).run([request(1), request(2)])
    assert [answer.error for answer in answers.values()] == ["too long", ""]
    assert memory.size == 1


def test_a_stopped_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    """The second run asks only what the first did not get, also from another process."""
    requests = [request(number) for number in range(10)]
    first = ScriptedChat(lambda *_: "yes", [None] * 6 + [KeyboardInterrupt()])
    with pytest.raises(InterruptedRunError, match="6 answers are kept"):
        asker(first, ResponseCache(tmp_path, endpoint="e"), concurrency=1).run(requests)
    second = echo()
    answers = asker(second, ResponseCache(tmp_path, endpoint="e")).run(requests)
    assert len(second.asked) == 4
    assert sum(answer.from_cache for answer in answers.values()) == 6


def test_another_endpoint_has_a_memory_of_its_own(tmp_path: Path) -> None:
    """The same model name elsewhere is another model."""
    ResponseCache(tmp_path, endpoint="a").put("k", Answer(text="x"))
    assert ResponseCache(tmp_path, endpoint="b").get("k") is None


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_that_a_crash_cut_short_costs_only_itself(tmp_path: Path, cut: int) -> None:
    """The lines before it are read, and the next one starts afresh."""
    memory = ResponseCache(tmp_path)
    for key in ("a", "b"):
        memory.put(key, Answer(text=key))
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-cut])
    again = ResponseCache(tmp_path)
    again.put("c", Answer(text="c"))
    last = ResponseCache(tmp_path)
    assert last.get("a") == Answer(text="a")
    assert last.get("c") == Answer(text="c")


def test_the_memory_is_for_its_owner_and_follows_no_link(tmp_path: Path) -> None:
    """Answers may hold private text; a planted link is not written through."""
    memory = ResponseCache(tmp_path / "kept")
    memory.put("a", Answer(text="x"))
    assert memory.path is not None
    assert memory.path.stat().st_mode & 0o777 == 0o600
    planted = ResponseCache(tmp_path / "other", endpoint="x")
    assert planted.path is not None
    planted.path.parent.mkdir()
    planted.path.symlink_to(tmp_path / "target")
    with pytest.raises(LocalStateError, match="cannot be kept"):
        planted.put("a", Answer())


def test_strange_lines_and_lone_surrogates_survive(tmp_path: Path) -> None:
    """Whatever stands in the file or in an answer."""
    memory = ResponseCache(tmp_path)
    memory.put("a", Answer(text="\ud800 \x00 \u2028"))
    assert memory.path is not None
    memory.path.write_bytes(b'\xff\xfe\n[]\n{"key": 1}\n' + memory.path.read_bytes())
    assert ResponseCache(tmp_path).get("a") == Answer(text="\ud800 \x00 \u2028")


def test_requests_keep_to_the_rate_limit() -> None:
    """Ten a minute are six seconds apart, whoever asks."""
    now = [100.0]
    starts: list[float] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = RateLimiter(10, sleep=sleep, clock=lambda: now[0])
    for _ in range(4):
        pace.acquire()
        starts.append(now[0])
    assert starts == [100, 106, 112, 118]


def test_no_more_requests_are_under_way_than_allowed() -> None:
    """Counted while they wait for each other."""
    under_way, most, lock = [0], [0], threading.Lock()

    def reply(_model: str, _messages: object) -> str:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        threading.Event().wait(0.01)
        with lock:
            under_way[0] -= 1
        return "yes"

    asker(ScriptedChat(reply), concurrency=3).run([request(number) for number in range(30)])
    assert most[0] == 3
