"""The thread of a model computes what other threads request; whoever waits gets an answer or an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from ftpipe.inference.batch_model import BatchSequence
from ftpipe.inference.generation import Generation, GenerationStream
from ftpipe.inference.model_thread import ModelThread
from ftpipe.inference.scheduler import Scheduler
from tests.inference.fakes import FakeBatchModel, new_generation

if TYPE_CHECKING:
    import torch

SECONDS = 60.0


class PausingModel(FakeBatchModel):
    """Waits before each call until it may compute."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.may_compute = threading.Event()
        self.threads: set[threading.Thread] = set()

    def prefill(self, sequences: Sequence[BatchSequence], *, chunks: int = 1) -> list[torch.Tensor | None]:
        self.threads.add(threading.current_thread())
        self.has_begun.set()
        assert self.may_compute.wait(SECONDS)
        return super().prefill(sequences, chunks=chunks)


class BrokenModel(FakeBatchModel):
    """Sequences cannot be closed, as long as it is broken."""

    is_broken = True

    def close_sequence(self, sequence: BatchSequence) -> None:
        if self.is_broken:
            raise RuntimeError("the slot is damaged")
        super().close_sequence(sequence)


def start(model: FakeBatchModel, **changes: Any) -> ModelThread:
    return ModelThread(Scheduler(model, max_num_seqs=4), **changes)


def submit(thread: ModelThread, number: int, **changes: Any) -> Generation:
    """A request with one token in its prompt."""
    generation = new_generation([number], **changes)
    thread.submit(generation)
    return generation


def finish(generation: Generation) -> str | None:
    """Read an answer to its end; the reason for it."""
    return [delta.finish_reason for delta in GenerationStream(generation, lambda: None)][-1]


def read(generation: Generation, check_cancelled: Callable[[], None] = lambda: None) -> str:
    return "".join(delta.text for delta in GenerationStream(generation, check_cancelled))


def test_model_thread_requests_of_all_threads_are_computed_in_one() -> None:
    """In one batch, if they come while it computes."""
    model = PausingModel()
    thread = start(model)
    first, *others = (new_generation([number]) for number in (1, 2, 3))
    thread.submit(first)
    assert model.has_begun.wait(SECONDS)
    submitters = [threading.Thread(target=thread.submit, args=(generation,)) for generation in others]
    for submitter in submitters:
        submitter.start()
    for submitter in submitters:
        submitter.join(SECONDS)
    assert (thread.running, thread.waiting) == (1, 2)
    model.may_compute.set()
    assert all(len(read(generation)) > 0 for generation in (first, *others))
    assert [sorted(ids) for name, ids in model.calls if name == "prefill"] == [[1], [2, 3]]
    assert len(model.threads) == 1


def test_model_thread_ends_when_idle_and_starts_again() -> None:
    model = PausingModel()
    model.may_compute.set()
    thread = start(model, idle_seconds=0.0)
    for number in (1, 2):
        thread.submit(generation := new_generation([number]))
        assert read(generation)
        for computing in model.threads:
            computing.join(SECONDS)
            assert not computing.is_alive()
    assert len(model.threads) == 2


def test_model_thread_waits_for_requests_that_are_tokenized() -> None:
    """Those that arrive together are in one step from the first token on."""
    model = FakeBatchModel()
    thread = start(model, join_seconds=SECONDS)
    generations = [new_generation([number]) for number in (1, 2)]
    with thread.expecting():
        with thread.expecting():
            thread.submit(generations[0])
        thread.submit(generations[1])
    assert all(read(generation) for generation in generations)
    assert [sorted(ids) for name, ids in model.calls if name == "prefill"] == [[1, 2]]


def test_model_thread_does_not_wait_long_for_requests_that_are_tokenized() -> None:
    thread = start(FakeBatchModel(), join_seconds=0.0)
    with thread.expecting():
        thread.submit(generation := new_generation([1]))
        assert read(generation)


def test_model_thread_error_of_the_scheduler_reaches_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And later requests are answered."""
    scheduler = Scheduler(FakeBatchModel(), max_num_seqs=4)
    thread = ModelThread(scheduler)
    generations = [new_generation([number]) for number in (1, 2)]

    def fail() -> None:
        raise ArithmeticError("a bug")

    with monkeypatch.context() as patch, thread.expecting():
        patch.setattr(scheduler, "step", fail)
        for generation in generations:
            thread.submit(generation)
        for generation in generations:
            with pytest.raises(ArithmeticError, match="a bug"):
                read(generation)
    thread.submit(later := new_generation([3]))
    assert read(later)


def test_model_thread_computes_what_was_requested_before_it_was_closed() -> None:
    model = PausingModel()
    thread = start(model, idle_seconds=SECONDS)
    thread.submit(generation := new_generation([1]))
    assert model.has_begun.wait(SECONDS)
    thread.close()
    model.may_compute.set()
    assert read(generation)
    (computing,) = model.threads
    computing.join(SECONDS)
    assert not computing.is_alive()


@pytest.mark.parametrize("leave", ["close", "drop", "cancel"])
def test_generation_stream_answer_leaves_with_its_reader(leave: str) -> None:
    """Whether the reader closes the stream, forgets it, or was told to stop."""
    generation = new_generation([1], max_tokens=10_000, logit_bias={599: -100.0})
    checks = iter([True])

    def check_cancelled() -> None:
        if leave == "cancel" and not next(checks, False):
            raise InterruptedError

    model = FakeBatchModel()
    thread = start(model)
    stream = GenerationStream(generation, check_cancelled)
    thread.submit(generation)
    assert next(stream).text
    if leave == "cancel":
        with pytest.raises(InterruptedError):
            next(stream)
    elif leave == "close":
        stream.close()
        assert next(stream, None) is None
    if leave == "drop":
        del stream
    assert generation.is_cancelled
    thread.submit(other := new_generation([2]))
    assert read(other)
    joined = model.calls.index(("prefill", [2]))
    assert all(ids == [2] for _, ids in model.calls[joined:])


def test_generation_stream_reader_does_not_wait_if_another_thread_closes_it() -> None:
    stream = GenerationStream(new_generation([1]), lambda: None)
    pieces: list[object] = []
    reader = threading.Thread(target=lambda: pieces.append(next(stream, None)), daemon=True)
    reader.start()
    stream.close()
    reader.join(SECONDS)
    assert pieces == [None]


def test_generation_stream_ends_after_the_last_piece() -> None:
    thread = start(FakeBatchModel())
    thread.submit(generation := new_generation([1]))
    stream = GenerationStream(generation, lambda: None)
    assert [delta.finish_reason for delta in stream][-1] in ("length", "stop")
    assert next(stream, None) is None


@pytest.mark.parametrize("max_tokens", [100_000, 1])
def test_model_thread_survives_a_model_that_cannot_close_sequences(max_tokens: int) -> None:
    """Every reader gets the error, also of the answers that were not computed yet; later ones are answered.

    Also if the sequences that were not closed leave no memory for another one.
    """
    model = BrokenModel(max_sequences=1, max_tokens=max_tokens)
    thread = start(model, join_seconds=SECONDS)
    with thread.expecting():
        generations = [submit(thread, number, max_tokens=number) for number in range(1, 6)]
    failed = 0
    for generation in generations:
        try:
            finish(generation)
        except RuntimeError as error:
            assert "damaged" in str(error)
            failed += 1
    assert failed >= len(generations) - 2, "only an answer that was complete has no error"
    model.is_broken = False
    assert finish(submit(thread, 9)) in ("stop", "length")
    thread.close()


class Panic(BaseException):
    """What a panic in Rust is in Python: no ``Exception``."""


@pytest.mark.parametrize("method", ["open_sequence", "prefill", "decode", "close_sequence"])
def test_model_thread_restarts_if_its_thread_has_died(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """An error that nothing handles ends the answers, and the next request starts another thread."""
    model = FakeBatchModel()
    thread = start(model, join_seconds=SECONDS)
    with monkeypatch.context() as patch:

        def die(*_: Any, **__: Any) -> None:
            raise Panic

        patch.setattr(model, method, die)
        patch.setattr(threading, "excepthook", lambda _: None)
        before = set(threading.enumerate())
        with thread.expecting():
            generations = [submit(thread, number, max_tokens=3) for number in (1, 2)]
        started = [one for one in threading.enumerate() if one not in before]
        for generation in generations[1:] if method == "close_sequence" else generations:
            with pytest.raises(RuntimeError, match="has ended"):
                finish(generation)
        for one in started:
            one.join(SECONDS)
    assert finish(submit(thread, 3)) in ("stop", "length")
    thread.close()


def test_model_thread_error_of_a_thread_that_cannot_start_is_that_of_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one starts it."""
    model = FakeBatchModel()
    thread = start(model)

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            submit(thread, 1)
    assert thread.waiting == 0
    assert finish(submit(thread, 2)) in ("stop", "length")
    assert {id_ for _, ids in model.calls for id_ in ids} == {2}
    thread.close()
