"""Turn the tokens of an answer into pieces of text, with their log-probabilities, as they are generated."""

from __future__ import annotations

from dataclasses import dataclass

from ftpipe.modeling.types import Tokenizer


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural log-probability before temperature, and the most probable alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()

    @property
    def bytes(self) -> list[int]:
        """The token's text in UTF-8."""
        return list(self.token.encode())


@dataclass(frozen=True)
class Delta:
    """The next piece of an answer; the last one has ``finish_reason`` (``stop`` or ``length``) and token counts."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, which were computed before for another one with the same beginning."""
    completion_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the first piece, if they are requested; the first one's log-probability is 0."""


class IncrementalDetokenizer:
    """Turns tokens into text: complete characters only, and nothing that may be the start of a stop string.

    Args:
        tokenizer: Decodes.
        stop_strings: Texts that end the answer.
        context: Tokens to decode the answer behind; see ``ChatTokenizer.decoding_context``.
        removed_start: Text that is removed from the start of the answer if it is there.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_strings: tuple[str, ...],
        context: tuple[int, ...] = (),
        removed_start: str = "",
    ) -> None:
        self.has_stopped = False
        self._tokenizer = tokenizer
        self._stop_strings = tuple(text for text in stop_strings if text)
        self._ids: list[int] = list(context)
        self._prefix_offset, self._read_offset = 0, len(context)
        self._removed_start = removed_start
        self._pending = ""
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, id_: int, logprobs: tuple[TokenLogprob, ...]) -> Delta:
        """The text that is certain after one more token."""
        self._ids.append(id_)
        self._logprobs += logprobs
        previous = self._decode(self._ids[self._prefix_offset : self._read_offset])
        current = self._decode(self._ids[self._prefix_offset :])
        if current.endswith("\ufffd") or len(current) <= len(previous):
            return Delta("")
        self._prefix_offset, self._read_offset = self._read_offset, len(self._ids)
        self._append(current[len(previous) :])
        positions = [start for start in (self._pending.find(text) for text in self._stop_strings) if start >= 0]
        if positions:
            self.has_stopped = True
            self._pending = self._pending[: min(positions)]
            return self._release(len(self._pending))
        return self._release(len(self._pending) - self._partial_stop_length())

    def flush(self) -> Delta:
        """The remaining text, at the end of the answer."""
        if not self.has_stopped:
            previous = self._decode(self._ids[self._prefix_offset : self._read_offset])
            self._append(self._decode(self._ids[self._prefix_offset :])[len(previous) :])
        return self._release(len(self._pending))

    def _append(self, text: str) -> None:
        self._pending += text.removeprefix(self._removed_start)
        self._removed_start = self._removed_start if not text else ""

    def _release(self, length: int) -> Delta:
        released, self._pending = self._pending[:length], self._pending[length:]
        logprobs: tuple[TokenLogprob, ...] = ()
        if not self._pending:
            logprobs, self._logprobs = self._logprobs, ()
        return Delta(released, logprobs)

    def _partial_stop_length(self) -> int:
        """Number of characters at the end that may be the start of a stop string."""
        longest = 0
        for text in self._stop_strings:
            for size in range(1, len(text)):
                if self._pending.endswith(text[:size]):
                    longest = max(longest, size)
        return longest

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
