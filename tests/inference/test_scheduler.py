"""Which answers are computed in a step, with a model that has no weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ftpipe.errors import NotFoundError
from ftpipe.inference.batch_model import PREFILL_CHUNK_TOKENS
from ftpipe.inference.generation import Generation
from ftpipe.inference.scheduler import BATCH_STEP_INTERVAL, MAX_SLOWDOWN, Scheduler
from tests.inference.fakes import FakeBatchModel, new_generation, read_deltas

MIXED: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.3, "top_p": 0.7, "seed": 2, "adapter": "a"},
    {"temperature": 1.0, "top_k": 5, "seed": 3, "adapter": "b"},
    {"temperature": 0.8, "min_p": 0.2, "seed": 4},
    {"frequency_penalty": 1.5, "presence_penalty": 0.5, "logit_bias": {7: 6.0, 8: 6.0}, "adapter": "a"},
    {"repetition_penalty": 1.8, "logprobs": 3},
    {"temperature": 1.0, "seed": 5, "logprobs": 0, "prompt_logprobs": 2},
    {
        "stop": ("".join(chr(0x100 + id_) for id_ in (1, 2)),),
        "logit_bias": {1: 20.0, 2: 19.0},
        "frequency_penalty": 2.0,
    },
]


def run(model: FakeBatchModel, *generations: Generation, **changes: Any) -> None:
    """Compute all answers."""
    scheduler = make_scheduler(model, **changes)
    for generation in generations:
        scheduler.add(generation)
    run_until_done(scheduler)


def make_scheduler(model: FakeBatchModel, **changes: Any) -> Scheduler:
    return Scheduler(model, **{"max_num_seqs": model.max_sequences, "clock": model.clock, **changes})


def run_until_done(scheduler: Scheduler) -> None:
    for _ in range(10_000):
        if not scheduler.running and not scheduler.waiting:
            return
        scheduler.step()
    raise AssertionError


def text(generation: Generation) -> str:
    return "".join(delta.text for delta in read_deltas(generation))


def make_mixed() -> list[Generation]:
    """Requests that use each parameter, with prompts of one chunk and of several."""
    return [
        new_generation(**{"prompt": range(10 + index, 10 + index + 50 * (index % 4 + 1)), "max_tokens": 12, **changes})
        for index, changes in enumerate(MIXED)
    ]


def test_scheduler_answers_do_not_depend_on_the_batch() -> None:
    """Tokens, log-probabilities and ends of a mixed batch are those of each request alone."""
    together, alone = make_mixed(), make_mixed()
    run(FakeBatchModel(max_sequences=4), *together)
    for generation in alone:
        run(FakeBatchModel(), generation)
    answers = [read_deltas(generation) for generation in alone]
    assert [read_deltas(generation) for generation in together] == answers
    assert {deltas[-1].finish_reason for deltas in answers} >= {"length", "stop"}
    assert len(answers[7][0].prompt_logprobs) == answers[7][-1].prompt_tokens == 200


def test_scheduler_answer_joins_and_leaves_between_tokens() -> None:
    model = FakeBatchModel()
    scheduler = make_scheduler(model)
    first, second = new_generation([1], max_tokens=6), new_generation([2], max_tokens=2)
    scheduler.add(first)
    scheduler.step()
    scheduler.step()
    scheduler.add(second)
    run_until_done(scheduler)
    assert model.calls == [
        ("prefill", [1]),
        ("decode", [1]),
        ("prefill", [2]),
        ("decode", [1]),
        ("decode", [1, 2]),
        ("decode", [1]),
        ("decode", [1]),
    ]
    assert not model.tokens


def test_scheduler_long_prompt_does_not_stop_others() -> None:
    """Between two chunks of it, others get a token."""
    model = FakeBatchModel()
    scheduler = make_scheduler(model)
    scheduler.add(new_generation([1], max_tokens=8))
    scheduler.step()
    scheduler.add(new_generation([2] * 300))
    for _ in range(5):
        scheduler.step()
    assert model.calls[1:] == [("prefill", [2]), ("decode", [1])] * 5


def test_scheduler_long_prompt_alone_is_computed_in_few_steps() -> None:
    model = FakeBatchModel()
    run(model, new_generation([2] * 600, max_tokens=2))
    assert model.calls == [("prefill", [2])] * 2 + [("decode", [2])]


def test_scheduler_prompts_of_a_step_are_bounded() -> None:
    """Eight chunks of newcomers, two at once, before the next token of those who are there."""
    model = FakeBatchModel(max_sequences=20)
    prompts = [[number] * PREFILL_CHUNK_TOKENS for number in range(1, 13)]
    run(model, *(new_generation(prompt, max_tokens=2, logit_bias={599: -100.0}) for prompt in prompts))
    assert [(name, len(ids)) for name, ids in model.calls] == [
        *[("prefill", 2)] * 4,
        *[("prefill", 2)] * 2,
        *(("decode", 8), ("decode", 4)),
    ]


def test_scheduler_first_answers_begin_before_all_prompts_are_computed() -> None:
    """Of prompts that arrive together; short ones are computed together."""
    model = FakeBatchModel(max_sequences=20)
    scheduler = make_scheduler(model)
    generations = [new_generation([number] * 30) for number in range(1, 17)]
    for generation in generations:
        scheduler.add(generation)
    begun: list[int] = []
    model.on_call = lambda: begun.append(sum(generation.completion_tokens > 0 for generation in generations))
    scheduler.step()
    assert model.calls == [("prefill", [first, first + 1, first + 2, first + 3]) for first in (1, 5, 9, 13)]
    assert begun == [0, 4, 8, 12]


def test_scheduler_prompts_of_clients_that_left_are_not_computed() -> None:
    """Though they left while others of the same step were computed."""
    model = FakeBatchModel(max_sequences=20)
    scheduler = make_scheduler(model)
    generations = [new_generation([number] * PREFILL_CHUNK_TOKENS) for number in range(1, 7)]
    for generation in generations:
        scheduler.add(generation)

    def leave() -> None:
        for generation in generations[1:5]:
            generation.is_cancelled = True

    model.on_call = leave
    scheduler.step()
    assert model.calls == [("prefill", [1, 2]), ("prefill", [6])]


def test_scheduler_prompts_that_begin_alike_are_computed_in_one_step() -> None:
    """Those that took a beginning from the cache of another one, too, though it was computed in the same step."""
    model = FakeBatchModel(max_sequences=20)
    model.shares_beginnings = True
    scheduler = make_scheduler(model)
    for number in range(1, 5):
        scheduler.add(new_generation([7] * 20 + [number], max_tokens=2))
    scheduler.step()
    assert [(name, len(ids)) for name, ids in model.calls] == [("prefill", 4), ("prefill", 3)]


@pytest.mark.parametrize("max_num_seqs", [1, 3])
def test_scheduler_batch_has_a_maximal_size(max_num_seqs: int) -> None:
    model = FakeBatchModel(max_sequences=8)
    run(model, *(new_generation([number]) for number in range(1, 10)), max_num_seqs=max_num_seqs)
    assert max(len(ids) for name, ids in model.calls if name == "decode") == max_num_seqs


def test_scheduler_sequential_model_computes_one_token_in_a_step() -> None:
    """So that the owner who used the model least waits for no tokens of others; those of equal owners alternate."""
    model = FakeBatchModel()
    model.seconds = 1.0
    model.is_sequential = True
    scheduler = make_scheduler(model)
    for number in (100, 101):
        scheduler.add(new_generation([number], owner="many", max_tokens=50))
    for _ in range(5):
        scheduler.step()
    assert model.calls == [("prefill", [100, 101]), *[("decode", [100]), ("decode", [101])] * 2]
    scheduler.add(new_generation([1], owner="one", max_tokens=3))
    for _ in range(3):
        scheduler.step()
    assert [call for call in model.calls[5:] if call != ("decode", [100])] == [
        ("prefill", [1]),
        ("decode", [1]),
        ("decode", [1]),
    ]


def test_scheduler_owner_with_one_request_does_not_wait_for_many_of_another() -> None:
    """It joins at once, though as many answers of the other owner are computed as a step can have.

    While its prompt is computed, the others go on; then they take part now and then, until it has used as much.
    """
    model = FakeBatchModel()
    model.seconds = 1.0
    scheduler = make_scheduler(model)
    for number in range(100, 120):
        scheduler.add(new_generation([number], owner="many", max_tokens=50))
    for _ in range(5):
        scheduler.step()
    scheduler.add(new_generation([1], owner="one", max_tokens=6))
    model.calls.clear()
    for _ in range(6):
        scheduler.step()
    assert [1 in ids for _, ids in model.calls[:2]] == [True, False]
    assert sum(1 in ids for _, ids in model.calls) == 6
    assert [len(ids) for name, ids in model.calls if name == "decode"] == [4, 1, 1, 1, 4, 1]


@pytest.mark.parametrize("prompt_tokens", [1, 300])
def test_scheduler_owner_with_many_requests_hardly_delays_another(prompt_tokens: int) -> None:
    """Though each of them lengthens a step; they go on all the same."""
    seconds = {}
    for others in (0, 30):
        model = FakeBatchModel(max_sequences=16)
        model.seconds, model.seconds_per_sequence = 0.02, 0.01
        scheduler = make_scheduler(model)
        for number in range(100, 100 + others):
            never = {599: -100.0}
            prompt = [number] * prompt_tokens
            scheduler.add(new_generation(prompt, owner="many", max_tokens=1000, logit_bias=never))
        for _ in range(200):
            scheduler.step()
        model.calls.clear()
        started = model.now
        scheduler.add(new_generation([1], owner="one", max_tokens=64, logit_bias={599: -100.0}))
        while sum(1 in ids for _, ids in model.calls) < 64:
            scheduler.step()
        seconds[others] = model.now - started
        beside = [len(ids) for name, ids in model.calls if name == "decode" and 1 in ids and len(ids) > 1]
        assert bool(beside) == bool(others)
        assert set(beside) <= {16}
    assert seconds[30] / seconds[0] < 1 + 1.5 * MAX_SLOWDOWN  # the first step may be a long one


def test_scheduler_owner_who_leaves_again_and_again_hardly_delays_another() -> None:
    """The answers that they begin and do not wait for cost time, too."""
    alone, beside = seconds_beside_leaving(0), seconds_beside_leaving(4)
    assert alone < beside < alone * (1 + 1.5 * MAX_SLOWDOWN)


def seconds_beside_leaving(requests: int) -> float:
    """Time of an answer if another owner leaves before each step, and comes again with so many requests."""
    model = FakeBatchModel(max_sequences=16)
    model.seconds, model.seconds_per_sequence, model.seconds_to_open = 0.02, 0.01, 0.02
    scheduler = make_scheduler(model)
    coming: list[Generation] = []
    started = 0.0
    for steps in range(10_000):
        for generation in coming:
            generation.is_cancelled = True
        coming = [new_generation([100], owner="leaves", max_tokens=1000) for _ in range(requests)]
        for generation in coming:
            scheduler.add(generation)
        if steps == 100:
            model.calls.clear()
            started = model.now
            scheduler.add(new_generation([1], owner="stays", max_tokens=64, logit_bias={599: -100.0}))
        scheduler.step()
        if sum(1 in ids for _, ids in model.calls) == 64:
            assert any(100 in ids for _, ids in model.calls) == bool(requests)
            return model.now - started
    raise AssertionError


def test_scheduler_owner_who_uses_the_model_without_pause_keeps_half_of_it() -> None:
    """Also beside an owner whose many answers take most of the time of each step that they take part in."""
    seconds = {}
    for others in (0, 30):
        model = FakeBatchModel(max_sequences=16)
        model.seconds, model.seconds_per_sequence = 0.02, 0.01
        scheduler = make_scheduler(model)
        never = {599: -100.0}
        for number in range(100, 100 + others):
            scheduler.add(new_generation([number], owner="many", max_tokens=5000, logit_bias=never))
        for number in (1, 2):
            scheduler.add(new_generation([number], owner="two", max_tokens=1000, logit_bias=never))
        while sum(1 in ids for _, ids in model.calls) < 200:
            scheduler.step()
        model.calls.clear()
        started = model.now
        while sum(1 in ids for _, ids in model.calls) < 500:
            scheduler.step()
        seconds[others] = model.now - started
        assert any(len(ids) > 2 for _, ids in model.calls) == bool(others)
    assert seconds[30] / seconds[0] < 2


def test_scheduler_equal_owners_are_computed_together() -> None:
    """Nobody waits for an owner who used as much."""
    model = FakeBatchModel(max_sequences=8)
    model.seconds, model.seconds_per_sequence = 0.02, 0.01
    scheduler = make_scheduler(model)
    for number in range(1, 9):
        scheduler.add(new_generation([number], owner=f"owner {number}", max_tokens=50, logit_bias={599: -100.0}))
    run_until_done(scheduler)
    assert {len(ids) for name, ids in model.calls if name == "decode"} == {8}


def test_scheduler_owners_share_a_full_batch() -> None:
    """Two owners who use it for long get the same number of tokens, whatever the number of their requests."""
    model = FakeBatchModel()
    model.seconds = 0.1
    scheduler = make_scheduler(model)
    for number in range(100, 120):
        scheduler.add(new_generation([number], owner="many", max_tokens=400, logit_bias={599: -100.0}))
    for number in range(1, 5):
        scheduler.add(new_generation([number], owner="few", max_tokens=400, logit_bias={599: -100.0}))
    for _ in range(300):
        scheduler.step()
    tokens = Counter("many" if id_ >= 100 else "few" for name, ids in model.calls if name == "decode" for id_ in ids)
    assert tokens["few"] == pytest.approx(tokens["many"], rel=0.1)


def test_scheduler_answers_of_one_owner_take_turns() -> None:
    """Of more answers than a step can have, each gets as many tokens."""
    model = FakeBatchModel()
    scheduler = make_scheduler(model)
    for number in range(1, 5):
        scheduler.add(new_generation([number], owner="a", max_tokens=90, logit_bias={599: -100.0}))
        scheduler.add(new_generation([100 + number], owner="b", max_tokens=90, logit_bias={599: -100.0}))
    for _ in range(100):
        scheduler.step()
    tokens = Counter(id_ for name, ids in model.calls if name == "decode" for id_ in ids)
    assert set(tokens.values()) <= {48, 49, 50, 51}
    assert len(tokens) == 8


def test_scheduler_interactive_requests_come_first() -> None:
    """Work that can wait takes part in some steps while somebody waits for an answer, and in all others."""
    model = FakeBatchModel()
    scheduler = make_scheduler(model)
    never = {599: -100.0}
    for number in (1, 2):
        scheduler.add(new_generation([number], priority="batch", max_tokens=500, logit_bias=never))
    for _ in range(3):
        scheduler.step()
    scheduler.add(new_generation([3], max_tokens=40, logit_bias=never))
    model.calls.clear()
    for _ in range(40):
        scheduler.step()
    decoded = [ids for name, ids in model.calls if name == "decode"]
    assert sum(3 in ids for ids in decoded) == 39
    assert sum(1 in ids for ids in decoded) == sum(2 in ids for ids in decoded) == 40 / BATCH_STEP_INTERVAL
    model.calls.clear()
    scheduler.step()
    assert model.calls == [("decode", [1, 2])]


def test_scheduler_batch_work_progresses_beside_a_full_batch() -> None:
    """Though more people wait for an answer than a step can have."""
    model = FakeBatchModel()
    model.seconds = 0.1
    scheduler = make_scheduler(model)
    never = {599: -100.0}
    scheduler.add(new_generation([1], priority="batch", max_tokens=500, logit_bias=never))
    for number in range(100, 110):
        scheduler.add(new_generation([number], max_tokens=500, logit_bias=never))
    for _ in range(100):
        scheduler.step()
    tokens = Counter(id_ for name, ids in model.calls if name == "decode" for id_ in ids)
    assert 5 <= tokens[1] <= 100 / BATCH_STEP_INTERVAL


def test_scheduler_cancelled_answer_leaves_before_the_next_token() -> None:
    model = FakeBatchModel()
    scheduler = make_scheduler(model, max_num_seqs=2)
    running, waiting, other = (new_generation([number], max_tokens=50) for number in (1, 2, 3))
    blocker = new_generation([4], max_tokens=50)
    for generation in (running, blocker, waiting, other):
        scheduler.add(generation)
    scheduler.step()
    running.is_cancelled = waiting.is_cancelled = True
    model.calls.clear()
    run_until_done(scheduler)
    assert not any({1, 2} & set(ids) for _, ids in model.calls)
    assert read_deltas(other)[-1].finish_reason is not None
    assert not model.tokens


@pytest.mark.parametrize("error", [NotFoundError("the adapter was deleted", ""), RuntimeError("out of memory")])
def test_scheduler_error_of_one_answer_does_not_end_others(error: Exception) -> None:
    """Neither at its beginning, nor in its prompt, nor between two tokens."""
    model = FakeBatchModel()
    scheduler = make_scheduler(model)
    missing, good, bad = (
        new_generation([number], adapter, max_tokens=9) for number, adapter in enumerate(("missing", "good", "bad"), 1)
    )
    for generation in (missing, good, bad):
        scheduler.add(generation)
    for _ in range(3):
        scheduler.step()
    model.fail_for("bad", error)
    later = new_generation([4], "bad")
    scheduler.add(later)
    run_until_done(scheduler)
    for generation, message in ((missing, "no such adapter"), (bad, str(error)), (later, str(error))):
        with pytest.raises(type(error) if generation is not missing else NotFoundError, match=message):
            read_deltas(generation)
    alone = new_generation([2], "good", max_tokens=9)
    run(FakeBatchModel(), alone)
    assert read_deltas(good) == read_deltas(alone)
    assert not model.tokens


def test_scheduler_error_of_a_sampler_ends_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeBatchModel()
    good, bad = new_generation([1]), new_generation([2], temperature=1.0)

    def fail(_: object) -> int:
        raise ArithmeticError("no token is possible")

    monkeypatch.setattr(bad.sampler, "sample", fail)
    run(model, bad, good)
    with pytest.raises(ArithmeticError):
        read_deltas(bad)
    assert read_deltas(good)[-1].finish_reason is not None
    assert not model.tokens


def test_scheduler_waits_until_there_is_memory() -> None:
    """The owner who comes first is not overtaken by smaller requests until it has room."""
    model = FakeBatchModel(max_tokens=120)
    scheduler = make_scheduler(model)
    for number in (1, 2, 3):
        scheduler.add(new_generation([number] * 40, max_tokens=10, logit_bias={599: -100.0}))
    scheduler.step()
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    run_until_done(scheduler)
    assert model.calls.index(("prefill", [3])) > model.calls.index(("decode", [1, 2]))
