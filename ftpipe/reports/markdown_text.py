"""Markdown that can also be read as plain text: aligned tables, and foreign text with as few escapes as possible."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ftpipe.formatting import columns, sanitize_line

MAX_TEXT_CHARACTERS = 160
"""Characters of a quoted text."""
MAX_ALIGNED_COLUMNS = 60
"""Cells that are wider do not widen their column."""

_MARKUP = re.compile(
    r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)|\$(?=.*\$)|#(?=\d)|&(?=#?\w+;)"
    r"|^(?:[+-](?=\s|$)|#(?=#{0,5}(?:\s|$))|[=-](?=[=\s-]*$)|\d+(?=[.)](?:\s|$)))"
)
"""What is active within a line, and at its start: items of lists, titles, and lines under titles."""
_AUTOMATIC_LINK = re.compile(
    r"(?i):(?=//)|(?<=http):|(?<=https):|(?<=mailto):|(?<=xmpp):|(?<=javascript):|(?<=www)\.|(?<!\w)@(?=\w)|@(?=[\w-]+\.)"
)
"""GitHub makes links of addresses and notifies people whose names follow an @."""


def escape_markdown(text: object, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Untrusted text as one line without active markup, links or mentions."""
    shown = _MARKUP.sub(_escaped, sanitize_line(text, limit).strip())
    return _AUTOMATIC_LINK.sub(lambda match: f"&#{ord(match.group())};", shown)


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character in "<>&":
        return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}[character]
    return f"{character}\\" if character.isdigit() else f"\\{character}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose columns are aligned, with an empty line after it.

    Args:
        head: Titles.
        rows: Escaped cells.
    """
    widths = [max(3, *(min(columns(row[at]), MAX_ALIGNED_COLUMNS) for row in (head, *rows))) for at in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True))
        yield f"| {' | '.join(cells)} |"
    yield ""
