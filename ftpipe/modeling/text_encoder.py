"""Encode parts of a text with a fast tokenizer, so that a later part gets no blank that is not in the text."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.modeling.types import Tokenizer

_ANCHORS = ("\n", ".", "a", ")")
"""Texts that a part is tokenized behind; one of them does not merge with the part."""
_CONTEXT = "a"
_PROBES = ("b", " b", "  b", "\nb", "1")


class TextEncoder:
    """A tokenizer of the package ``tokenizers``.

    Tokenizers made with SentencePiece (Llama 2, Mistral, Gemma 1) put a blank before the text. A part of a text that is
    tokenized by itself must not get one: it is tokenized behind another text, whose tokens are then removed.
    """

    def __init__(self, backend: Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._adds_blank = any(self._raw(text) != list(self._continue(text)) for text in _PROBES)
        self.context: tuple[int, ...] = tuple(id_ for id_, _ in self._raw(_CONTEXT)) if self._adds_blank else ()
        """Tokens to decode later ones behind, so that they keep the blank before a text; empty if none is lost."""

    def encode(self, text: str, *, is_continuation: bool) -> Iterator[tuple[int, int]]:
        """Id and position of each token.

        Args:
            text: Special tokens in it become tokens.
            is_continuation: Whether another part comes before.

        Raises:
            ChatTemplateError: The text has half of a surrogate pair.
        """
        try:
            yield from self._continue(text) if is_continuation and self._adds_blank else self._raw(text)
        except (UnicodeEncodeError, TypeError) as exc:
            raise ChatTemplateError("a text has half of a surrogate pair", "remove the character") from exc

    def _raw(self, text: str) -> list[tuple[int, int]]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        return [(id_, start) for id_, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)]

    def _continue(self, text: str) -> Iterator[tuple[int, int]]:
        for anchor in _ANCHORS:
            before, whole = self._raw(anchor), self._raw(anchor + text)
            size = len(before)
            if whole[:size] == before and (len(whole) == size or whole[size][1] >= len(anchor)):
                return iter([(id_, start - len(anchor)) for id_, start in whole[size:]])
        return iter(self._raw(text))
