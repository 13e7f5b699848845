"""What graders of jobs ask models: answered once, only what the job's grader names, and again by the next server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from ftpipe.errors import LocalStateError
from ftpipe.grading.score_model import ModelReply
from ftpipe.server.batches import answer_lines
from ftpipe.server.cancellation import ActiveRequests, CancelToken, RequestCancelledError
from ftpipe.server.grader_models import GraderModels
from ftpipe.server.jobs import grader_requests
from ftpipe.server.jobs.grader_requests import GraderRequests
from ftpipe.server.protocol import ApiError, ApiRequest
from ftpipe.server.routed_chats import RoutedChats
from ftpipe.server.storage import JobRow
from ftpipe.training.grader_chats import GraderChats, GraderChatsFile
from ftpipe.training.job_directory import JobDirectory

JUDGE = {"type": "score_model", "name": "j", "model": "tiny", "input": [{"role": "user", "content": "x"}]}


class FakeModels:
    """Answers every chat with its message, when it may."""

    def __init__(self, *, waits: bool = False) -> None:
        self.calls: list[str] = []
        self.owners: list[str] = []
        self.waits = waits

    def ask(self, owner: str, bodies: list[Mapping[str, Any]], token: CancelToken) -> list[ModelReply]:
        """The replies."""
        self.owners.append(owner)
        self.calls += [body["text"] for body in bodies]
        while self.waits:
            token.raise_if_cancelled()
            time.sleep(0.001)
        return [ModelReply(body["text"]) for body in bodies]


def job(grader: dict[str, Any] | None = JUDGE) -> JobRow:
    """A running job."""
    return cast("JobRow", type("Row", (), {"id": "ftjob-1", "owner": "anna", "grader": grader})())


def requests(models: object) -> GraderRequests:
    """What answers them."""
    return GraderRequests(cast("GraderModels", models), ActiveRequests())


def wait_until(is_true: Callable[[], object]) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    """A job directory with chats that wait."""
    directory = JobDirectory(tmp_path)
    GraderChatsFile(directory).write_chats(GraderChats("c1", [{"model": "tiny", "text": t} for t in ("a", "b")]))
    return directory


def replies(directory: JobDirectory, chats_id: str = "c1") -> list[ModelReply] | None:
    """What the trainer reads."""
    return GraderChatsFile(directory).read_replies(chats_id)


def test_chats_are_answered_once(directory: JobDirectory) -> None:
    """Also if another server looks at them before the trainer has read the replies."""
    models = FakeModels()
    first = requests(models)
    for _ in range(3):
        first.poll(job(), directory)
    wait_until(lambda: replies(directory))
    first.poll(job(), directory)
    requests(models).poll(job(), directory)
    first.close()
    assert replies(directory) == [ModelReply("a"), ModelReply("b")]
    assert (models.calls, models.owners) == (["a", "b"], ["anna"])
    assert replies(directory, "c2") is None


def test_next_server_answers_what_was_cancelled(directory: JobDirectory) -> None:
    """A server that stops, or a trainer that starts again, leaves nothing that waits for ever."""
    stopping = requests(FakeModels(waits=True))
    stopping.poll(job(), directory)
    stopping.close()
    assert replies(directory) is None
    following = requests(waiting := FakeModels(waits=True))
    following.poll(job(), directory)
    wait_until(lambda: waiting.calls)
    GraderChatsFile(directory).write_chats(GraderChats("c2", [{"model": "tiny", "text": "c"}]))
    waiting.waits = False
    following.poll(job(), directory)
    wait_until(lambda: replies(directory, "c2"))
    following.close()


def test_only_models_of_the_grader_are_asked(directory: JobDirectory) -> None:
    """Whatever is in the job directory."""
    models = FakeModels()
    GraderChatsFile(directory).write_chats(GraderChats("c1", [{"model": "other", "text": "a"}]))
    asking = requests(models)
    asking.poll(job(), directory)
    wait_until(lambda: replies(directory))
    asking.poll(job(None), directory)
    asking.close()
    assert [reply.error for reply in replies(directory) or []] == ["the job's grader does not name this model"]
    assert models.calls == []


def test_full_disk_loses_no_replies(directory: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written later, and not computed again."""
    models, write, failures = FakeModels(), GraderChatsFile.write_replies, [LocalStateError("disk full"), OSError(28)]

    def fail_first(*args: Any) -> None:
        if failures:
            raise failures.pop()
        write(*args)

    monkeypatch.setattr(GraderChatsFile, "write_replies", fail_first)
    monkeypatch.setattr(grader_requests, "WRITE_PAUSE_SECONDS", 0.001)
    asking = requests(models)
    asking.poll(job(), directory)
    wait_until(lambda: replies(directory))
    asking.close()
    assert models.calls == ["a", "b"]


def test_an_error_of_the_server_is_a_reply(directory: JobDirectory) -> None:
    """The trainer does not wait for ever."""
    asking = requests(object())
    asking.poll(job(), directory)
    wait_until(lambda: replies(directory))
    asking.close()
    assert [reply.error for reply in replies(directory) or []] == ["the server had an error"] * 2


class FakeChats:
    """Answers chats with the number of the call."""

    def __init__(self, *, remote: bool = False, answer: Any = None) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self._lock = threading.Lock()
        self._remote = remote
        self._answer = answer

    def is_remote(self, _owner: str, _name: str) -> bool:
        """Whether another host answers."""
        return self._remote

    def complete(self, request: ApiRequest) -> Any:
        """An answer."""
        assert (request.owner, request.priority) == ("anna", "batch")
        with self._lock:
            self.bodies.append(request.body)
        return self._answer or {"choices": [{"message": {"content": request.body["text"]}}], "model": "m"}


def models_with(chats: FakeChats) -> GraderModels:
    """The models behind chats."""
    return GraderModels(cast("RoutedChats", chats), lambda owner, name: (owner, name) == ("anna", "tiny"))


def test_same_chats_are_asked_once() -> None:
    """Answers to a prompt are often the same."""
    chats = FakeChats()
    bodies = [{"model": "tiny", "text": text} for text in "abab"]
    assert [reply.text for reply in models_with(chats).ask("anna", bodies, CancelToken())] == list("abab")
    assert sorted(body["text"] for body in chats.bodies) == ["a", "b"]


def test_models_at_other_hosts_are_never_asked() -> None:
    """They cost money: refused when the grader is checked, and also if the route is set later."""
    models = models_with(chats := FakeChats(remote=True))
    with pytest.raises(ApiError) as refused:
        models.require("anna", "tiny", "grader.model")
    assert refused.value.body["error"]["code"] == "unsupported_model"
    (reply,) = models.ask("anna", [{"model": "tiny", "text": "a"}], CancelToken())
    assert "can cost money" in reply.error
    assert chats.bodies == []


@pytest.mark.parametrize("answer", [{"choices": 1}, {"choices": [1]}, {"choices": [{"message": "x"}]}, {"error": {}}])
def test_hostile_answers_are_errors(answer: dict[str, Any]) -> None:
    """Of another program that computes for this server."""
    (reply,) = models_with(FakeChats(answer=answer)).ask("anna", [{"model": "tiny", "text": "a"}], CancelToken())
    assert reply.error
    assert reply.text == ""


class BusyChats(FakeChats):
    """Can answer nothing at the moment."""

    def complete(self, request: ApiRequest) -> Any:
        """An error after which a chat is tried again, after a pause."""
        request.cancel_token.raise_if_cancelled()
        super().complete(request)
        raise ApiError(503, "busy")


def test_pause_before_another_try_ends_when_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops does not wait for it."""
    monkeypatch.setattr(answer_lines, "RETRY_PAUSES_SECONDS", (60.0,))
    token, chats = CancelToken(), BusyChats()

    def cancel() -> None:
        wait_until(lambda: chats.bodies)
        token.cancel()

    timer = threading.Thread(target=cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(RequestCancelledError):
        models_with(chats).ask("anna", [{"model": "tiny", "text": "a"}], token)
    timer.join()
    assert time.monotonic() - started < 50
    assert len(chats.bodies) == 1


def test_cancelled_chats_end_at_once() -> None:
    """When the job is cancelled or the server stops."""
    token = CancelToken()
    token.cancel()
    with pytest.raises(RequestCancelledError):
        models_with(FakeChats()).ask("anna", [{"model": "tiny", "text": "a"}], token)
