"""The engine in a process of its own: answers, errors, cancellation, crashes, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from ftpipe.errors import FtpipeError, NotFoundError
from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import ContextLengthError, GenerationRequest
from ftpipe.server.cancellation import CancelToken, RequestCancelledError
from ftpipe.server.inference.crash_history import CRASH_WINDOW_SECONDS, FORGET_SECONDS, RepeatedCrashError
from ftpipe.server.inference.engine_process import InferenceEndedError
from ftpipe.server.inference.messages import InferenceError
from ftpipe.server.inference.remote_engine import MAX_AHEAD as MAX_AHEAD_BY_PRIORITY
from ftpipe.server.inference.remote_engine import RemoteEngine
from tests.server.inference.fake_engine_process import ERRORS

MAX_AHEAD = MAX_AHEAD_BY_PRIORITY["interactive"]
SECONDS = 60
"""The longest wait for an event; only a failing test takes it."""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class Harness:
    """An engine in a process, which does what messages say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        command = (sys.executable, "-m", "tests.server.inference.fake_engine_process", str(folder))
        self.engine = RemoteEngine(command, lambda: False, clock=lambda: self.now)

    def generate(
        self, text: str, *, check_cancelled: Callable[[], None] = lambda: None, **changes: object
    ) -> Iterator[Delta]:
        """The answer to one message."""
        request = GenerationRequest(messages=[{"role": "user", "content": text}], **changes)  # type: ignore[arg-type]
        return self.engine.generate(base="tiny", adapter=Path("/a"), request=request, check_cancelled=check_cancelled)

    def text(self, text: str) -> str:
        """The whole answer to one message."""
        return "".join(piece.text for piece in self.generate(text))

    def counted(self, name: str) -> int:
        """How many pieces of an answer were computed."""
        return int((self.folder / f"counted-{name}").read_text() or 0)

    def crash(self, text: str = "crash") -> InferenceEndedError:
        """Let the process crash."""
        with pytest.raises(InferenceEndedError) as ended:
            self.text(text)
        return ended.value


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """One process for all tests after which it goes on."""
    harness = Harness(tmp_path_factory.mktemp("shared"))
    yield harness
    harness.engine.close()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """A process that a test may end."""
    harness = Harness(tmp_path)
    yield harness
    harness.engine.close()


def test_remote_engine_sends_whole_request_and_answer(shared: Harness) -> None:
    """Every field arrives as it was, and so do pieces with log-probabilities."""
    request = GenerationRequest(
        messages=[{"role": "user", "content": "echo", "extra": {"deep": [1, 2.5, None, True, "é🎉"]}}],
        owner="me",
        tools=[{"type": "function"}],
        stop=("a", "\n"),
        seed=2**63 - 1,
        logit_bias={5: -100.0},
        grammar="start: x",
        logprobs=3,
    )
    first, last = shared.engine.generate(base="tiny", adapter=Path("/a"), request=request, check_cancelled=lambda: None)
    assert first.text == f"tiny /a {request!r}"
    assert (first.logprobs[0].token, first.logprobs[0].top[0].logprob) == ("é", float("-inf"))
    assert last == Delta("", finish_reason="stop", prompt_tokens=7, completion_tokens=1)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_remote_engine_raises_error_of_same_class(shared: Harness, name: str) -> None:
    with pytest.raises(FtpipeError) as raised:
        shared.text(f"raise {name}")
    error = raised.value
    assert type(error) is ERRORS[name]
    assert (error.message, error.hint) == (f"the message of {name}", f"the hint of {name}")
    assert (error.code, str(error)) == (ERRORS[name].code, error.message)


def test_remote_engine_raises_nearest_known_class(shared: Harness) -> None:
    """Of a class that the server has not imported, and of an error that is none of ftpipe's."""
    with pytest.raises(ContextLengthError) as unknown:
        shared.text("raise UnknownToServerError")
    assert (type(unknown.value), unknown.value.code) == (ContextLengthError, "only_here")
    for name in ("ValueError", "Panic"):
        with pytest.raises(InferenceError, match=f"{name}: a bug"):
            shared.text(f"raise {name}")


def test_remote_engine_load_is_done_at_once_when_loaded(shared: Harness) -> None:
    """Also when another request has loaded it meanwhile; an error is that of the engine."""
    first, second = shared.engine.load("tiny"), shared.engine.load("tiny")
    first.result(SECONDS)
    second.result(SECONDS)
    assert shared.engine.load("tiny").done()
    assert (shared.folder / "loads").read_text().splitlines() == ["tiny"]
    with pytest.raises(NotFoundError, match="missing"):
        shared.engine.load("missing").result(SECONDS)


def test_remote_engine_load_cannot_be_cancelled_by_one_who_waits(shared: Harness) -> None:
    """Others wait for the same future."""
    future = shared.engine.load("other")
    assert not future.cancel()
    future.result(SECONDS)


def test_remote_engine_cancels_before_next_token(shared: Harness) -> None:
    """An error of ``check_cancelled`` ends the answer here and in the process."""
    token = CancelToken()
    pieces = shared.generate("count cancelled 1000000", check_cancelled=token.raise_if_cancelled)
    assert next(pieces).text == "0 "
    token.cancel()
    with pytest.raises(RequestCancelledError):
        next(pieces)
    wait_until((shared.folder / "closed-cancelled").exists)
    assert shared.counted("cancelled") <= MAX_AHEAD + 1


def test_remote_engine_computes_bounded_number_of_pieces_ahead(shared: Harness) -> None:
    """A client that does not read stops its own answer only; closing the iterator ends it."""
    with closing(shared.generate("count slow 1000000")) as slow:  # type: ignore[type-var]
        next(slow)
        wait_until(lambda: shared.counted("slow") == MAX_AHEAD)
        assert shared.text("count fast 200").split() == [str(number) for number in range(200)]
        assert shared.counted("slow") == MAX_AHEAD
        for _ in range(MAX_AHEAD):
            next(slow)
        wait_until(lambda: shared.counted("slow") > MAX_AHEAD)
    wait_until((shared.folder / "closed-slow").exists)


def test_remote_engine_computes_batch_token_when_it_is_wanted(shared: Harness) -> None:
    """``check_cancelled`` of a mirrored chat waits for callers; nothing is computed meanwhile."""
    counts: list[int] = []
    pieces = shared.generate("count batch 5", priority="batch", check_cancelled=lambda: counts.append(len(counts)))
    computed = []
    for _ in pieces:
        computed.append(shared.counted("batch"))
    assert computed == [1, 2, 3, 4, 5]
    assert len(counts) >= len(computed)


def test_remote_engine_answers_200_requests_at_once(shared: Harness) -> None:
    with ThreadPoolExecutor(200) as pool:
        texts = list(pool.map(lambda number: shared.text(f"count {number} {number % 7}"), range(200)))
    assert [len(text.split()) for text in texts] == [number % 7 for number in range(200)]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 2, f"signal {signal.SIGRTMIN + 2}")]
)
def test_remote_engine_fails_running_requests_when_process_is_killed(harness: Harness, number: int, name: str) -> None:
    """All get an error, also a load; the next request starts a new process, which answers the same requests."""
    assert harness.engine.pid is None  # nothing is started before it is needed
    running = [harness.generate(f"count {number} 1000000") for number in range(3)]
    for pieces in running:
        next(pieces)
    loading = harness.engine.load("endless")
    pid = harness.engine.pid
    assert pid is not None
    os.kill(pid, number)
    for pieces in running:
        with pytest.raises(InferenceEndedError, match=f"was ended by {name}"):
            for _ in pieces:
                pass
    with pytest.raises(InferenceEndedError):
        loading.result(SECONDS)
    assert harness.text("count again 3") == "0 1 2 "
    assert harness.engine.pid not in (None, pid)
    assert is_gone(pid)


def test_remote_engine_refuses_request_that_crashed_twice(harness: Harness) -> None:
    """Others are answered; it is tried again after a while."""
    assert "SIGSEGV" in harness.crash().message
    harness.crash()
    with pytest.raises(RepeatedCrashError) as refused:
        harness.text("crash")
    assert refused.value.retry_after == FORGET_SECONDS
    assert harness.text("count other 1") == "0 "
    harness.now += FORGET_SECONDS + 1
    harness.crash()


def test_remote_engine_refuses_base_whose_load_crashed_twice(harness: Harness) -> None:
    for _ in range(2):
        with pytest.raises(InferenceEndedError):
            harness.engine.load("crash").result(SECONDS)
    with pytest.raises(RepeatedCrashError):
        harness.engine.load("crash").result(SECONDS)


def test_remote_engine_limits_rate_of_restarts(harness: Harness) -> None:
    """Whatever the requests are."""
    assert "exit code 3" in harness.crash("crash exit").message
    harness.crash("crash 2")
    harness.crash("crash 3")
    harness.now += CRASH_WINDOW_SECONDS - 1
    with pytest.raises(RepeatedCrashError) as refused:
        harness.text("count a 1")
    assert refused.value.retry_after == 1
    assert harness.engine.pid is None
    harness.now += 2
    assert harness.text("count a 1") == "0 "


def test_remote_engine_close_ends_process_while_it_loads(harness: Harness) -> None:
    """At once; who waits gets an error, and nothing is started afterwards."""
    loading = harness.engine.load("endless")
    wait_until(lambda: (harness.folder / "loads").exists())
    pid = harness.engine.pid
    assert pid is not None
    harness.engine.close()
    assert is_gone(pid)
    with pytest.raises(InferenceEndedError):
        loading.result(0)
    with pytest.raises(RequestCancelledError):
        harness.text("count a 1")
    assert harness.engine.pid is None
    harness.engine.close()


def test_remote_engine_logs_status_lines(shared: Harness, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="ftpipe.server"):
        shared.engine.load("third").result(SECONDS)
    assert "loading third" in caplog.messages


def test_remote_engine_reports_command_that_cannot_be_started(tmp_path: Path) -> None:
    engine = RemoteEngine((str(tmp_path / "nothing"),), lambda: False)
    with pytest.raises(FtpipeError, match="cannot be started"):
        engine.load("tiny").result(0)


PARENT = """
import sys
from pathlib import Path
from tests.server.inference.test_remote_engine import Harness
harness = Harness(Path(sys.argv[1]))
harness.engine.load("endless")
print(harness.engine.pid, flush=True)
sys.stdin.read()
"""


def test_inference_process_ends_when_server_is_killed(tmp_path: Path) -> None:
    """Also while a model is loaded."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until((tmp_path / "loads").exists)
        assert not is_gone(pid)
        parent.kill()
    wait_until(lambda: is_gone(pid))
