"""Which tokens of a row are trained, as lines for a terminal; kinds are named, so that no colour is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from ftpipe.formatting import sanitize_line
from ftpipe.records.token_mask import TokenKind, TokenMask

STYLES = {
    TokenKind.CONTROL: "code",
    TokenKind.PROMPT: "dim",
    TokenKind.TRAINED: "ok",
    TokenKind.WEIGHT_0: "warning",
    TokenKind.CUT: "error",
}
MEANINGS = {
    TokenKind.CONTROL: "written by the chat template",
    TokenKind.PROMPT: "read",
    TokenKind.TRAINED: "learned",
    TokenKind.WEIGHT_0: "an answer that is only read",
    TokenKind.CUT: "beyond the limit",
}
MAX_SHOWN_TOKENS = 4000

Style = Callable[[str, str], str]


def mask_lines(mask: TokenMask, style: Style) -> list[str]:
    """A title, one block for each run of tokens of a kind (kind, number of tokens, text), and a legend."""
    lines = [style("bold", mask_title(mask)), *([style("dim", mask.note)] if mask.note else [])]
    for kind, number, text in token_runs(mask):
        first, *more = [f"{part}⏎" for part in text.split("\n")[:-1]] + [text.rpartition("\n")[2]]
        lines.append(f"  {style(STYLES[kind], f'{kind.value:<8}')} {number:>5}  {_shown(first, kind, style)}")
        lines += [f"{'':18}{_shown(part, kind, style)}" for part in more if part]
    if len(mask.tokens) > MAX_SHOWN_TOKENS:
        lines.append(f"  … and {len(mask.tokens) - MAX_SHOWN_TOKENS:,} tokens more; --json has all")
    kinds = [kind for kind in TokenKind if mask.count(kind)]
    return [*lines, "  " + " · ".join(f"{style(STYLES[kind], kind.value)}: {MEANINGS[kind]}" for kind in kinds)]


def mask_title(mask: TokenMask) -> str:
    """Line, number of tokens of each kind, limit and tokenizer."""
    name = f" ({mask.name})" if mask.name else ""
    counts = ", ".join(f"{mask.count(kind):,} {kind.value}" for kind in TokenKind if mask.count(kind))
    limit = f", limit {mask.limit:,}" if mask.limit else ""
    tokenizer = sanitize_line(mask.tokenizer, 80)
    return f"line {mask.line}{name}: {len(mask.tokens):,} tokens ({counts}{limit}), tokenizer {tokenizer}"


def token_runs(mask: TokenMask) -> Iterator[tuple[TokenKind, int, str]]:
    """Kind, number of tokens and text of each run of tokens of one kind."""
    for kind, run in groupby(mask.tokens[:MAX_SHOWN_TOKENS], key=lambda token: token.kind):
        tokens = list(run)
        yield kind, len(tokens), "".join(token.text for token in tokens)


def _shown(text: str, kind: TokenKind, style: Style) -> str:
    """Blanks that a line begins with are visible, because an answer's first ones are learned, too."""
    rest = text.lstrip(" ")
    return style(STYLES[kind], "·" * (len(text) - len(rest)) + sanitize_line(rest))
