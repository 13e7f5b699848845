"""Decide which answers are computed in the next step of a base model: they join and leave its batch between tokens.

Why an own scheduler: transformers' continuous batching answered 26 tokens per second on two CPU cores where plain
batches gave 115, and it cannot mix adapters; vLLM and SGLang need a GPU (measured 2026-11-28).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from ftpipe.inference.batch_model import PREFILL_CHUNK_TOKENS, BatchModel, BatchSequence
from ftpipe.inference.fair_share import Account, DecodeTimes, FairShare, TimeAllowance, weighted
from ftpipe.inference.generation import Generation

if TYPE_CHECKING:
    import torch

MAX_CHUNKS_PER_STEP = 8
MAX_PROMPT_TOKENS_PER_STEP = MAX_CHUNKS_PER_STEP * PREFILL_CHUNK_TOKENS
"""Of prompts that are computed between two tokens of the answers, so that long prompts do not stop others."""
PROMPT_TOKENS_PER_CALL = 2 * PREFILL_CHUNK_TOKENS
"""Of several prompts that are computed at once: with more, they take as long, and the first of them waits for the last.
"""
BATCH_STEP_INTERVAL = 4
"""While somebody waits for an answer, work that can wait takes part in at most each fourth step."""
MAX_SLOWDOWN = 0.25
"""By how much the answers of owners who used the model little may take longer because of owners who used more."""

_Compute: TypeAlias = "Callable[[Sequence[BatchSequence]], Sequence[torch.Tensor | None] | torch.Tensor]"
"""Computes the logits of sequences, a row for each."""


class Scheduler:
    """Computes answers step by step; one thread uses it.

    A step appends one chunk to prompts and one token to answers. If more answers are computed than a step can have, the
    owner who used the model least comes first. An owner has at most one batch of answers in memory, and twice as many
    are there in total, so that another owner's answer need not wait for one of them to end. If the model computes one
    sequence after the other, a step appends one token: with one to each answer, an owner's tokens would wait for those
    of all answers of the others, and the 95th percentile of their chats under attack was 5 times that without
    (tests/benchmarks/soak.py, two CPU cores, 2026-11-29).

    While owners who used the model little have answers, owners who used more take part in so many steps, and begin so
    many answers, that they lengthen those answers by ``MAX_SLOWDOWN``, whatever the number of their requests. So an
    owner who uses the model without pause keeps about half of it beside another one.

    Args:
        model: Computes.
        max_num_seqs: Maximum number of answers in one step; that of the model if it is smaller.
        clock: Monotonic seconds.
    """

    def __init__(self, model: BatchModel, *, max_num_seqs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._max_num_seqs = min(max_num_seqs, model.max_sequences)
        self._decode_size = 1 if model.is_sequential else self._max_num_seqs
        self._clock = clock
        self._share = FairShare(clock)
        self._allowance = TimeAllowance(MAX_SLOWDOWN)
        self._decode_times = DecodeTimes()
        self._seconds_per_token = 0.01
        self._steps = 0
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []

    @property
    def waiting(self) -> int:
        """Answers that are not computed yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are computed."""
        return len(self._running)

    def add(self, generation: Generation) -> None:
        """Compute an answer as soon as there is room for it."""
        self._waiting.append(generation)

    def step(self) -> None:
        """Append a chunk to prompts and a token to answers; nothing if there are none."""
        self._steps += 1
        self._remove_cancelled()
        admitting = self._admit_waiting() if self._waiting else 0.0
        candidates = _interactive(self._running)
        if not candidates or self._steps % BATCH_STEP_INTERVAL == 0:
            candidates = self._running
        accounts = self._light(candidates)
        light = [generation for generation in candidates if generation.account in accounts]
        heavy = [generation for generation in candidates if generation.account not in accounts]
        if heavy and not self._allowance.is_used_up:
            self._step_with_heavy(light, heavy, admitting)
        else:
            self._step_without_heavy(light)

    def _light(self, generations: Sequence[Generation]) -> set[Account]:
        return self._share.light({generation.account for generation in generations})

    def _step_without_heavy(self, light: list[Generation]) -> None:
        new, answering = _split(light)
        started = self._clock()
        self._prefill(new, is_alone=not answering)
        self._decode(self._select(answering, self._decode_size))
        self._allowance.earn(self._clock() - started)

    def _step_with_heavy(self, light: list[Generation], heavy: list[Generation], admitting: float) -> None:
        """A step of owners who used little and of others, who pay for the time by which it is longer.

        Args:
            light: Answers of the first.
            heavy: Answers of the others.
            admitting: Seconds in which answers of the others were begun before.
        """
        new, answering = _split(light)
        heavy_new, heavy_answering = _split(heavy)
        started = self._clock()
        self._prefill(new, is_alone=False)
        heavy_started = self._clock()
        self._prefill(self._select(heavy_new, 1), is_alone=False)
        decode_started = self._clock()
        selected = self._select([*answering, *heavy_answering], self._decode_size)
        light_count = sum(generation in answering for generation in selected)
        without_heavy = self._decode_times.expected(light_count)
        self._decode(selected)
        seconds = self._clock() - decode_started
        if without_heavy is None:
            without_heavy = seconds * light_count / max(1, len(selected))
        without_heavy = min(without_heavy, seconds)
        self._allowance.earn(heavy_started - started + without_heavy)
        self._allowance.spend(admitting + decode_started - heavy_started + seconds - without_heavy)

    def fail_all(self, error: Exception) -> None:
        """End all answers with an error, also if the model cannot even close their sequences."""
        generations = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for generation in generations:
            generation.fail(error)
        for generation in generations:
            if generation.sequence is not None:
                with suppress(Exception):  # the readers have the first error, which is the cause
                    self._model.close_sequence(generation.sequence)

    def _remove_cancelled(self) -> None:
        for generation in [generation for generation in self._running if generation.is_cancelled]:
            self._remove(generation)
        self._waiting = deque(generation for generation in self._waiting if not generation.is_cancelled)

    def _admit_waiting(self) -> float:
        """Begin waiting answers; returns the seconds for those of owners who used much."""
        present = [*self._running, *self._waiting]
        self._admit(self._light(_interactive(present) or present))
        started = self._clock()
        if self._waiting and (not self._running or not self._allowance.is_used_up):
            self._admit({generation.account for generation in self._waiting})
        return self._clock() - started

    def _admit(self, accounts: Collection[Account]) -> None:
        """Begin waiting answers of some accounts, in turn for each owner, as long as there is room."""
        while self._waiting and len(self._running) < 2 * self._max_num_seqs:
            counts = Counter(generation.account for generation in self._running)
            batch_count = sum(count for (_, priority), count in counts.items() if priority == "batch")
            full = {account for account, count in counts.items() if count >= self._max_num_seqs}
            candidates = [
                generation
                for generation in self._waiting
                if generation.account in accounts
                and generation.account not in full
                and (generation.request.priority == "interactive" or batch_count < self._max_num_seqs)
            ]
            if not candidates:
                return
            generation = min(
                candidates,
                key=lambda candidate: (
                    candidate.request.priority == "batch",
                    counts[candidate.account],
                    self._share.used(candidate.account),
                ),
            )
            # one that is alone is computed in any case: a sequence that could not be closed has room for ever
            if self._running and not self._model.has_room(generation.max_length):
                return
            self._open(generation)
            self._waiting.remove(generation)  # not before: whatever ends the thread meanwhile must reach its reader

    def _open(self, generation: Generation) -> None:
        started = self._clock()
        try:
            generation.sequence = self._model.open_sequence(
                generation.adapter,
                generation.prompt,
                generation.max_length,
                needs_prompt_logits=generation.request.prompt_logprobs is not None,
            )
        except Exception as exc:  # noqa: BLE001  # it is the answer's error, and others go on
            generation.fail(exc)
        else:
            self._running.append(generation)
        self._share.add(generation.account, self._clock() - started)

    def _select(self, candidates: Sequence[Generation], limit: int) -> list[Generation]:
        """As many as a step can have: of the account that used least, and of an account the one that waited longest."""
        return list(candidates if len(candidates) <= limit else islice(self._in_turn(candidates), limit))

    def _in_turn(self, candidates: Sequence[Generation]) -> Iterator[Generation]:
        by_account: dict[Account, deque[Generation]] = {}
        for generation in sorted(candidates, key=lambda candidate: candidate.last_step):
            by_account.setdefault(generation.account, deque()).append(generation)
        used = {account: self._share.used(account) for account in by_account}
        while by_account:
            account = min(by_account, key=used.__getitem__)
            yield by_account[account].popleft()
            used[account] += weighted(account, self._seconds_per_token)
            if not by_account[account]:
                del by_account[account]

    def _prefill(self, generations: list[Generation], *, is_alone: bool) -> None:
        """Compute the next chunk of prompts, or more of them if nobody waits for the next token of an answer.

        A few prompts at a time, so that the first answers begin before all prompts are computed.
        """
        chunks = max(1, MAX_CHUNKS_PER_STEP // max(1, len(generations))) if is_alone else 1
        budget = MAX_PROMPT_TOKENS_PER_STEP
        tokens = sum(len(_sequence(generation).next_tokens(chunks)) for generation in generations)
        pending = deque(generations if tokens <= budget else self._in_turn(generations))
        while budget > 0 and (group := _next_prompts(pending, chunks, budget)):
            before = [_computed_tokens(generation) for generation in group]
            self._compute(group, partial(self._model.prefill, chunks=chunks))
            computed = [_computed_tokens(one) - count for one, count in zip(group, before, strict=True)]
            if not any(computed):
                return
            budget -= sum(computed)
            # those that begin like another one of the group wait for it, and take its keys and values
            pending += [one for one, count in zip(group, computed, strict=True) if not count and one in self._running]
            if is_alone:
                pending.extendleft(
                    one for one, count in zip(group, computed, strict=True) if count and self._is_new(one)
                )

    def _is_new(self, generation: Generation) -> bool:
        return generation in self._running and not _sequence(generation).is_prefilled

    def _decode(self, generations: list[Generation]) -> None:
        def decode(sequences: Sequence[BatchSequence]) -> torch.Tensor:
            return self._model.decode(sequences, [last_tokens[sequence] for sequence in sequences])

        last_tokens = {_sequence(generation): generation.last_token for generation in generations}
        started = self._clock()
        self._compute(generations, decode)
        if generations:
            seconds = self._clock() - started
            self._seconds_per_token = seconds / len(generations)
            self._decode_times.add(len(generations), seconds)

    def _compute(self, generations: list[Generation], compute: _Compute) -> None:
        """Call the model, sample from the logits, and count the time for the owners."""
        if not generations:
            return
        started = self._clock()
        lengths = [_sequence(generation).length for generation in generations]
        try:
            rows = compute([_sequence(generation) for generation in generations])
        except Exception as exc:  # noqa: BLE001  # see below
            self._compute_alone(generations, lengths, compute, exc)
        else:
            for generation, logits, token in zip(generations, rows, _most_probable(rows), strict=True):
                self._accept(generation, logits, token)
        seconds = (self._clock() - started) / len(generations)
        for generation in generations:
            self._share.add(generation.account, seconds)

    def _compute_alone(
        self,
        generations: list[Generation],
        lengths: list[int],
        compute: _Compute,
        error: Exception,
    ) -> None:
        """After an error, compute each answer by itself, so that only the one with the error ends."""
        for generation, length in zip(generations, lengths, strict=True):
            sequence = _sequence(generation)
            if len(generations) == 1 or sequence.length != length:  # it was computed, and its logits are lost
                self._fail(generation, error)
                continue
            try:
                (logits,) = compute([sequence])
            except Exception as exc:  # noqa: BLE001  # it is the answer's error, and others go on
                self._fail(generation, exc)
            else:
                self._accept(generation, logits, None)

    def _accept(self, generation: Generation, logits: torch.Tensor | None, most_probable: int | None) -> None:
        generation.last_step = self._steps
        if logits is None:
            return
        try:
            if logits.dim() == 2:  # after each token of a chunk
                generation.accept_prompt_logits(logits)
                if not _sequence(generation).is_prefilled:
                    return
                logits = logits[-1]
            has_ended = generation.accept_logits(logits, most_probable)
        except Exception as exc:  # noqa: BLE001  # it is the answer's error, and others go on
            self._fail(generation, exc)
            return
        if has_ended:
            self._remove(generation)

    def _fail(self, generation: Generation, error: Exception) -> None:
        generation.fail(error)
        self._remove(generation)

    def _remove(self, generation: Generation) -> None:
        if generation in self._running:
            self._running.remove(generation)
            self._model.close_sequence(_sequence(generation))


def _interactive(generations: Sequence[Generation]) -> list[Generation]:
    return [generation for generation in generations if generation.request.priority == "interactive"]


def _next_prompts(pending: deque[Generation], chunks: int, budget: int) -> list[Generation]:
    """Take the first ones, up to a number of tokens; at least one if somebody still waits for one."""
    group: list[Generation] = []
    tokens = 0
    while pending:
        if pending[0].is_cancelled:
            pending.popleft()
            continue
        count = len(_sequence(pending[0]).next_tokens(chunks))
        if group and tokens + count > min(budget, PROMPT_TOKENS_PER_CALL):
            break
        group.append(pending.popleft())
        tokens += count
    return group


def _computed_tokens(generation: Generation) -> int:
    sequence = _sequence(generation)
    return sequence.length - sequence.cached_tokens


def _split(generations: list[Generation]) -> tuple[list[Generation], list[Generation]]:
    """Those whose prompt is not computed yet, and the others."""
    new = [generation for generation in generations if not _sequence(generation).is_prefilled]
    return new, [generation for generation in generations if _sequence(generation).is_prefilled]


def _sequence(generation: Generation) -> BatchSequence:
    if generation.sequence is None:
        message = "the answer is not in the batch model"
        raise RuntimeError(message)
    return generation.sequence


def _most_probable(rows: Sequence[torch.Tensor | None] | torch.Tensor) -> Sequence[int | None]:
    """The most probable token of each row of a matrix, all at once.

    With numpy: 16 rows of 49,152 logits take 0.05 ms, with torch 0.66 (one core, 2026-11-29).
    """
    return [None] * len(rows) if isinstance(rows, Sequence) else rows.numpy().argmax(-1).tolist()
