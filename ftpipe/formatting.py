"""Formats text for reports: foreign text made safe to show, numbers, money, sizes, times and tables."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

Styler = Callable[[str, str], str]
"""``style(name, text)`` colors text for a terminal.

Names: ``error``, ``warning``, ``info``, ``ok``, ``bold``, ``dim``, ``code``.
"""

_BIDI = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_SEPARATORS = {0x2028, 0x2029, 0xFEFF}
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]",
)


def unstyled(_name: str, text: str) -> str:
    """Returns the text unchanged."""
    return text


def _shown(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if code in _BIDI or code in _SEPARATORS:
        return f"<U+{code:04X}>"
    return "\ufffd"


def sanitize_line(text: object, limit: int | None = None) -> str:
    """One line of foreign text that cannot control a terminal.

    Control characters, line breaks among them, are shown as symbols (ESC as ``␛``), direction controls as
    code points, and lone surrogates as the replacement character, so that nothing is hidden and nothing takes effect.

    Args:
        text: Anything that came from data, an endpoint or a file name.
        limit: Maximum number of characters; a longer text is cut and ends with an ellipsis.
    """
    shown = str(text) if limit is None else str(text)[: limit + 1]
    shown = _UNSAFE.sub(_shown, shown)
    if limit is not None and len(shown) > limit:
        return shown[: max(0, limit - 1)] + "…"
    return shown


_NOT_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"


def xml_text(text: object, limit: int | None = None) -> str:
    """One line of foreign text with only the characters that XML allows."""
    return re.sub(_NOT_XML, "\ufffd", sanitize_line(text, limit))


def sanitize_block(text: str) -> str:
    """Foreign text of several lines: line breaks and tabs stay, everything else is as in :func:`sanitize_line`."""
    return "\n".join(
        "    ".join(sanitize_line(cell) for cell in line.split("\t")) for line in re.split("\r\n|\n", text)
    )


def count(number: int) -> str:
    """An integer with thousands separators: ``12,345``."""
    return f"{number:,}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """``1 example``, ``12,345 examples``."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def format_money(amount: float | None, currency: str = "USD") -> str:
    """An amount with as many digits as it needs: ``0.00 USD``, ``0.0042 USD``, ``1,234.50 USD``, ``unknown``."""
    if amount is None or not math.isfinite(amount):
        return "unknown"
    if 0 < abs(amount) < 0.00005:
        return f"<0.0001 {currency}"
    return f"{amount:,.4f} {currency}" if 0 < abs(amount) < 0.1 else f"{amount:,.2f} {currency}"


def format_bytes(size: float) -> str:
    """A size in decimal units: ``512 B``, ``48.2 kB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """A time span in its two largest units: ``4 s``, ``1 min 20 s``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    if whole < 86400:
        return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")
    return f"{whole // 86400} d" + (f" {whole % 86400 // 3600} h" if whole % 86400 // 3600 else "")


def format_time(seconds: int | None, form: str = "%Y-%m-%d %H:%M UTC") -> str:
    """A UTC time, to the minute unless ``form`` says otherwise; a dash if there is none or it is out of range."""
    if seconds is None:
        return "–"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (OverflowError, OSError, ValueError):
        return "–"


def format_decimal(number: float | None, digits: int = 4) -> str:
    """A measured value; a dash if it was not reported or is not finite."""
    return "–" if number is None or not math.isfinite(number) else f"{number:.{digits}f}"


def relative_path(path: Path) -> Path:
    """A path below the working folder relative to it; any other path unchanged."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except (ValueError, OSError):
        return path


def format_table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), gap: str = "  ") -> list[str]:
    """Rows as aligned lines, without a frame.

    Args:
        rows: Sanitized cells; rows can differ in length.
        right: Indices of columns that are aligned to the right.
        gap: Text between two columns.
    """
    cells = [list(row) for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [max((len(row[at]) for row in cells if at < len(row)), default=0) for at in range(columns)]
    lines = []
    for row in cells:
        padded = (cell.rjust(widths[at]) if at in right else cell.ljust(widths[at]) for at, cell in enumerate(row))
        lines.append(gap.join(padded).rstrip())
    return lines


def table_width(lines: Iterable[str]) -> int:
    """Columns of the longest line."""
    return max(map(columns, lines))


def fit_table(
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    right: Sequence[int] = (),
    drop: Sequence[int] = (),
    style: Styler = unstyled,
) -> list[str]:
    """A table that fits into a width: with fewer columns, or as a list if that does not suffice.

    Args:
        rows: Sanitized cells, all rows of one length; the first row is the header.
        width: Columns of the terminal; ``None`` if there is no limit.
        right: Indices of columns that are aligned to the right.
        drop: Indices of columns that can be left out, the least important one first.
        style: Styles the header, or the first cell of each row in a list.
    """
    for dropped in range(len(drop) + 1):
        kept = [at for at in range(len(rows[0])) if at not in drop[:dropped]]
        aligned = [new for new, at in enumerate(kept) if at in right]
        first, *rest = format_table([[row[at] for at in kept] for row in rows], right=aligned)
        if width is None or table_width([first, *rest]) <= width:
            return [style("bold", first), *rest]
    lines = []
    for row in rows[1:]:
        lines.append(style("bold", row[0]))
        parts = [f"{label} {cell}".strip() for label, cell in zip(rows[0][1:], row[1:], strict=True) if cell]
        lines += [f"  {line}" for line in _joined(parts, (width or 0) - 2)]
    return lines


def _joined(parts: Iterable[str], width: int) -> list[str]:
    """Parts in as few lines as possible, none of them broken."""
    lines: list[str] = []
    for part in parts:
        if lines and columns(longer := f"{lines[-1]} · {part}") <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def cut_line(line: str, width: int | None) -> str:
    """A line of at most so many columns; an ellipsis stands for the rest."""
    if width is None or columns(line) <= width:
        return line
    while columns(line) > width - 1:
        line = line[:-1]
    return f"{line.rstrip()}…"


def format_fields(rows: Iterable[tuple[str, str]], *, width: int = 100, style: Styler = unstyled) -> list[str]:
    """Labels and texts, each text wrapped beside its label; rows without a text are left out.

    Args:
        rows: Sanitized labels and texts.
        width: Characters per line.
        style: Styles the labels.
    """
    fields = [(label, text) for label, text in rows if text]
    column = max((len(label) for label, _ in fields), default=0)
    lines = []
    for label, text in fields:
        first, *rest = textwrap.wrap(text, max(20, width - column - 2), break_on_hyphens=False) or [""]
        lines.append(f"{style('dim', label.ljust(column))}  {first}")
        lines += [f"{'':<{column}}  {line}" for line in rest]
    return lines


_ESCAPE = re.compile("\x1b\\[[0-9;]*m")
_LABEL = re.compile(r"^(\s*\S.{0,18}?\s{2,})\S")


def wrap_line(line: str, width: int) -> list[str]:
    """Wrap a line at words to at most ``width`` columns; colour codes have no width, and words are not broken.

    Continuation lines start under the column where the text of the first line starts. Short values stay beside their
    equals sign.

    Args:
        line: One line, with or without colour codes.
        width: Columns of the terminal.
    """
    if len(line) <= width or columns(line) <= width:
        return [line]
    indent = min(_indent(_ESCAPE.sub("", line)), width // 2)
    lines, current, used = [], "", 0
    for word in re.findall(r"\s*\S+(?: = \S{1,12}(?!\S))?", line):
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
    """Count the columns that a terminal needs for a text."""
    shown = _ESCAPE.sub("", text)
    if shown.isascii():
        return len(shown)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in shown)
    return len(shown) + wide - sum(unicodedata.combining(char) > 0 for char in shown)
