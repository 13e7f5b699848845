"""Turn the tokens of an answer into pieces of text, with their log-probabilities, as they are generated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from ftpipe.modeling.types import Tokenizer

RawBytes: TypeAlias = bytes
"""The type, by another name than the property."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural log-probability before temperature, and the most probable alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    raw: RawBytes | None = None
    """The token's bytes, if they are not those of its text: a part of a character has no text."""

    @property
    def bytes(self) -> list[int]:
        """The token's own bytes."""
        return list(self.token.encode() if self.raw is None else self.raw)

    @classmethod
    def of(cls, tokenizer: Tokenizer, id_: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        r"""The log-probability of a token; parts of characters are written as ``\xf0\x9f``.

        Source: OpenAI cookbook, "Using logprobs", https://developers.openai.com/cookbook/examples/using_logprobs,
        read 2026-11-29 (an emoji that consists of several tokens).
        """
        raw = token_bytes(tokenizer, id_)
        text = raw.decode(errors="backslashreplace")
        return cls(text, logprob, top, None if text.encode() == raw else raw)


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_BLANK = "\u2581"
"""How SentencePiece writes a blank."""


def token_bytes(tokenizer: Tokenizer, id_: int) -> bytes:
    """The bytes that a token stands for, also if it is a part of a character only."""
    piece, text = str(tokenizer.convert_ids_to_tokens(id_)), str(tokenizer.decode([id_]))
    if match := _BYTE_TOKEN.fullmatch(piece):
        return bytes.fromhex(match[1])
    if "\ufffd" in text and all(char in _byte_characters() for char in piece):
        return bytes(_byte_characters()[char] for char in piece)
    if blanks := len(piece) - len(piece.lstrip(_BLANK)):
        text = " " * blanks + text.lstrip(" ")  # some decoders drop the blank with which a text begins
    return text.encode()


@cache
def _byte_characters() -> dict[str, int]:
    """The characters with which byte-level tokenizers write bytes.

    Printable ones stand for themselves, the others follow from 256 on.
    Source: https://github.com/openai/gpt-2, ``src/encoder.py``, ``bytes_to_unicode``, read 2026-11-29.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


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


def partial_suffix_length(text: str, mark: str) -> int:
    """Number of characters at the end of a text that may be the start of ``mark``."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)


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
        partial = max((partial_suffix_length(self._pending, text) for text in self._stop_strings), default=0)
        return self._release(len(self._pending) - partial)

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

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
