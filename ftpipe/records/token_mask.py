"""The tokens of one training sequence, and which of them are trained."""

from __future__ import annotations

from enum import StrEnum

from ftpipe.records.base import Record


class TokenKind(StrEnum):
    """What becomes of a token in training."""

    CONTROL = "control"
    """Written by the chat template, not trained."""
    PROMPT = "prompt"
    """Text that the model reads."""
    TRAINED = "trained"
    """Text that the model learns to write, with the token that ends the answer."""
    WEIGHT_0 = "weight 0"
    """An answer with weight 0, which the model only reads."""
    CUT = "cut"
    """Beyond the limit of tokens."""


class MaskedToken(Record):
    """One token."""

    text: str
    """Its text; empty for all but the last token of a character that has several."""
    kind: TokenKind
    id: int | None = None
    """``None`` if the endpoint does not publish it."""


class TokenMask(Record):
    """The tokens of one sequence. A row has several if it is a pair, or if its answers are trained one by one."""

    line: int
    name: str = ""
    """Which sequence of the row; empty if it has one."""
    tokenizer: str
    exact: bool
    """Whether these are the tokens that are trained; otherwise see ``note``."""
    note: str = ""
    limit: int | None
    tokens: tuple[MaskedToken, ...]

    def count(self, kind: TokenKind) -> int:
        """Number of tokens of a kind."""
        return sum(token.kind == kind for token in self.tokens)
