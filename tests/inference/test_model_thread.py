"""Whoever waits for an answer gets it or an error, whatever happens in the thread that computes."""

from __future__ import annotations

import threading

import pytest

from ftpipe.inference.batch_model import BatchSequence
from ftpipe.inference.generation import Generation, GenerationStream
from ftpipe.inference.model_thread import ModelThread
from ftpipe.inference.scheduler import Scheduler
from tests.inference.fakes import FakeBatchModel, new_generation


class BrokenModel(FakeBatchModel):
    """Sequences cannot be closed, as long as it is broken."""

    is_broken = True

    def close_sequence(self, sequence: BatchSequence) -> None:
        if self.is_broken:
            raise RuntimeError("the slot is damaged")
        super().close_sequence(sequence)


def finish(generation: Generation) -> str | None:
    """Read an answer to its end."""
    return [delta.finish_reason for delta in GenerationStream(generation, lambda: None)][-1]


def test_model_thread_survives_a_model_that_cannot_close_sequences() -> None:
    """Every reader gets the error, also of the answers that were not computed yet; later ones are answered."""
    model = BrokenModel(max_sequences=1)
    thread = ModelThread(Scheduler(model, max_batch_size=1))
    generations = [new_generation([number], max_tokens=number) for number in range(1, 6)]
    for generation in generations:
        thread.submit(generation)
    failed = 0
    for generation in generations:
        try:
            finish(generation)
        except RuntimeError as error:
            assert "damaged" in str(error)
            failed += 1
    assert failed >= len(generations) - 2, "an answer that was complete has no error"
    model.is_broken = False
    assert finish(new := _submitted(thread)) in ("stop", "length"), new
    thread.close()


def _submitted(thread: ModelThread) -> Generation:
    generation = new_generation([9])
    thread.submit(generation)
    return generation


def test_model_thread_restarts_if_its_thread_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nothing handles ends the answers, and the next request starts another thread."""
    model = FakeBatchModel()
    scheduler = Scheduler(model, max_batch_size=4)
    thread = ModelThread(scheduler)
    with monkeypatch.context() as patch:

        def die() -> None:
            raise SystemExit

        patch.setattr(scheduler, "step", die)
        patch.setattr(threading, "excepthook", lambda _: None)
        before = set(threading.enumerate())
        generation = _submitted(thread)
        started = [one for one in threading.enumerate() if one not in before]
        with pytest.raises(RuntimeError, match="has ended"):
            finish(generation)
        for one in started:
            one.join()
    assert finish(_submitted(thread)) in ("stop", "length")
    thread.close()
