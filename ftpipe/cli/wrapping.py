"""Long lines folded at words to the width of a terminal, under the column where their text begins."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE = re.compile("\x1b\\[[0-9;]*m")
_LABEL = re.compile(r"^(\s*\S.{0,18}?\s{2,})\S")


def wrap_line(line: str, width: int) -> list[str]:
    """A line as lines of at most ``width`` columns; colour is not counted, and words are not broken.

    Args:
        line: One line, painted or not.
        width: Columns of the terminal.
    """
    if len(line) <= width or columns(line) <= width:
        return [line]
    indent = min(_indent(_ESCAPE.sub("", line)), width // 2)
    lines, current, used = [], "", 0
    for word in re.findall(r"\s*\S+", line):
        size = columns(word)
        if used and used + size > width:
            lines.append(current)
            word = word.lstrip()
            current, used = " " * indent + word, indent + columns(word)
        else:
            current, used = current + word, used + size
    return [*lines, current]


def _indent(text: str) -> int:
    labelled = _LABEL.match(text)
    if labelled:
        return columns(labelled.group(1))
    return len(text) - len(text.lstrip()) + 2


def columns(text: str) -> int:
    """How many columns a terminal needs for a text."""
    shown = _ESCAPE.sub("", text)
    if shown.isascii():
        return len(shown)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in shown)
    return len(shown) + wide - sum(unicodedata.combining(char) > 0 for char in shown)
