"""One answer while it is generated: what is sampled from each row of logits, and how its reader gets the text."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.inference.batch_model import BatchSequence
from ftpipe.inference.detokenizer import Delta, IncrementalDetokenizer, TokenLogprob
from ftpipe.inference.fair_share import Account
from ftpipe.inference.request import GenerationRequest
from ftpipe.inference.sampling import Sampler
from ftpipe.modeling.types import Tokenizer

if TYPE_CHECKING:
    import torch

CANCEL_POLL_SECONDS = 0.05
"""How often a reader that waits for a token looks whether its request was cancelled."""


@dataclass(eq=False, kw_only=True)
class Generation:
    """An answer that waits for the model or is computed; one thread advances it, another one reads it.

    Attributes:
        request: What is generated.
        adapter: Folder of the adapter; ``None`` for the base model alone.
        prompt: Ids that the answer follows.
        max_tokens: Maximum tokens of the answer.
        sampler: Chooses the tokens.
        detokenizer: Makes text of them.
        tokenizer: Decodes the tokens of log-probabilities.
        stop_token_ids: Tokens that end the answer.
        sequence: The answer in the batch model, once it is computed.
        last_token: The token that was sampled last.
        completion_tokens: Tokens of the answer so far.
        last_step: Number of the step in which it was last computed.
        is_cancelled: Whether nobody waits for it any more; it leaves the batch before the next token.
    """

    request: GenerationRequest
    adapter: Path | None
    prompt: list[int]
    max_tokens: int
    sampler: Sampler
    detokenizer: IncrementalDetokenizer
    tokenizer: Tokenizer
    stop_token_ids: set[int]
    sequence: BatchSequence | None = None
    last_token: int = -1
    completion_tokens: int = 0
    last_step: int = 0
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.account: Account = (self.request.owner, self.request.priority)
        self._prompt_logprobs: list[TokenLogprob] = []
        self._deltas: queue.SimpleQueue[Delta | Exception] = queue.SimpleQueue()

    @property
    def max_length(self) -> int:
        """Maximum tokens of prompt and answer together."""
        return len(self.prompt) + self.max_tokens

    def accept_prompt_logits(self, logits_TV: torch.Tensor) -> None:
        """Add the log-probabilities of the prompt's tokens that follow those of a chunk."""
        count = self.request.prompt_logprobs
        position = len(self._prompt_logprobs)
        if not position:
            self._prompt_logprobs.append(TokenLogprob.of(self.tokenizer, self.prompt[0], 0.0))
            position = 1
        for logits, token in zip(logits_TV, self.prompt[position:], strict=False):
            self._prompt_logprobs += self._logprobs(logits, token, count)
        if len(self._prompt_logprobs) == len(self.prompt):
            self._deltas.put(Delta("", prompt_logprobs=tuple(self._prompt_logprobs)))

    def accept_logits(self, logits: torch.Tensor, most_probable: int | None = None) -> bool:
        """Sample the next token.

        Args:
            logits: Of the next token.
            most_probable: The token with the largest logit, if it is known.

        Returns:
            Whether the answer has ended.
        """
        if most_probable is None or not self.sampler.is_greedy:
            most_probable = self.sampler.sample(logits)
        token = self.last_token = most_probable
        if token in self.stop_token_ids:
            self.end("stop", Delta(""))
            return True
        self.completion_tokens += 1
        delta = self.detokenizer.add(token, self._logprobs(logits, token, self.request.logprobs))
        if self.detokenizer.has_stopped or self.completion_tokens >= self.max_tokens:
            self.end("stop" if self.detokenizer.has_stopped else "length", delta)
            return True
        if delta.text or delta.logprobs:
            self._deltas.put(delta)
        return False

    def end(self, reason: str, last: Delta) -> None:
        """End the answer.

        Args:
            reason: ``stop`` or ``length``.
            last: What the last token adds.
        """
        rest = self.detokenizer.flush()
        self._deltas.put(
            Delta(
                last.text + rest.text,
                last.logprobs + rest.logprobs,
                reason,
                prompt_tokens=len(self.prompt),
                cached_tokens=self.sequence.cached_tokens if self.sequence is not None else 0,
                completion_tokens=self.completion_tokens,
            )
        )

    def fail(self, error: Exception) -> None:
        """End the answer with an error, which its reader gets."""
        self._deltas.put(error)

    def next_delta(self, timeout: float) -> Delta | None:
        """The next piece; ``None`` if there is none within some seconds.

        Raises:
            Exception: The error that ended the answer.
        """
        try:
            item = self._deltas.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def _logprobs(self, logits: torch.Tensor, token: int, count: int | None) -> tuple[TokenLogprob, ...]:
        if count is None:
            return ()
        import torch

        logprobs = torch.log_softmax(logits, -1)
        best = zip(*logprobs.topk(count), strict=True)
        top = tuple(TokenLogprob.of(self.tokenizer, int(id_), float(value)) for value, id_ in best)
        return (TokenLogprob.of(self.tokenizer, token, float(logprobs[token]), top),)


class GenerationStream(Iterator[Delta]):
    """The pieces of an answer; if nobody holds it any more, or it is closed, the answer leaves the batch.

    Args:
        generation: The answer.
        check_cancelled: Called before each piece, and while the stream waits for it; an error that it raises ends the
            answer.
    """

    def __init__(self, generation: Generation, check_cancelled: Callable[[], None]) -> None:
        self._generation = generation
        self._check_cancelled = check_cancelled
        self._has_ended = False

    def __next__(self) -> Delta:
        """Wait for the next piece."""
        while not self._has_ended:  # another thread may close it
            try:
                self._check_cancelled()
                delta = self._generation.next_delta(CANCEL_POLL_SECONDS)
            except BaseException:
                self.close()
                raise
            if delta is not None:
                self._has_ended = self._has_ended or delta.finish_reason is not None
                return delta
        raise StopIteration

    def close(self) -> None:
        """Let the answer leave the batch before its next token."""
        self._has_ended = True
        self._generation.is_cancelled = True

    def __del__(self) -> None:
        self.close()
