"""Turn the tokens of an answer into pieces of text that may be shown, with their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from ftpipe.modeling.types import Tokenizer


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural log-probability before temperature, and the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()

    @property
    def bytes(self) -> list[int]:
        """The token's text in UTF-8."""
        return list(self.token.encode())


@dataclass(frozen=True)
class Delta:
    """The next piece of an answer; totals and ``finish_reason`` (``stop`` or ``length``) come with the last."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class IncrementalDetokenizer:
    """Turns tokens into text that may be shown: whole characters only, and nothing that may begin a stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._from = self._read = 0
        self._held = ""
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, id_: int, logprobs: tuple[TokenLogprob, ...]) -> Delta:
        """What may be shown after one more token."""
        self._ids.append(id_)
        self._logprobs += logprobs
        known = self._decode(self._ids[self._from : self._read])
        now = self._decode(self._ids[self._from :])
        if now.endswith("\ufffd") or len(now) <= len(known):
            return Delta("")
        self._from, self._read = self._read, len(self._ids)
        self._held += now[len(known) :]
        found = [place for place in (self._held.find(text) for text in self._stop) if place >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self._show(len(self._held))
        return self._show(len(self._held) - self._partial_stop_length())

    def flush(self) -> Delta:
        """What was held back, at the end of the answer."""
        if not self.stopped:
            known = self._decode(self._ids[self._from : self._read])
            self._held += self._decode(self._ids[self._from :])[len(known) :]
        return self._show(len(self._held))

    def _show(self, length: int) -> Delta:
        shown, self._held = self._held[:length], self._held[length:]
        told: tuple[TokenLogprob, ...] = ()
        if not self._held:
            told, self._logprobs = self._logprobs, ()
        return Delta(shown, told)

    def _partial_stop_length(self) -> int:
        """Characters at the end that a stop text may begin with."""
        longest = 0
        for text in self._stop:
            for size in range(1, len(text)):
                if self._held.endswith(text[:size]):
                    longest = max(longest, size)
        return longest

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
