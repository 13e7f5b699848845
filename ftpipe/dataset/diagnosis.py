"""Refuses a file that is not chat or preference JSON Lines, with the same words as ``ftpipe validate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import orjson

from ftpipe.dataset.formats import LAYOUT_FAULTS, NOT_DATA
from ftpipe.dataset.json_line import Line
from ftpipe.dataset.reader import BOM, MAX_LINE_BYTES, read_lines
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.sniffer import SniffResult, sniff
from ftpipe.errors import DatasetError


def format_fault(sniffed: SniffResult) -> str:
    """Why a file must be converted before it can be used; empty if it need not."""
    if sniffed.layout in LAYOUT_FAULTS:
        return LAYOUT_FAULTS[sniffed.layout]
    if sniffed.format == "legacy":
        return f"All records are in the {sniffed.legacy_shape} format."
    if sniffed.format == "unknown" and sniffed.has_records:
        return "The records have neither messages nor preferred outputs."
    return ""


def conversion_command(path: Path) -> str:
    """The command that converts a file; empty if conversion would not help."""
    return _conversion_command(path, sniff(path))


def _conversion_command(path: Path, sniffed: SniffResult) -> str:
    needs_conversion = format_fault(sniffed) and sniffed.layout not in NOT_DATA
    return f"ftpipe convert {quote(str(path))}" if needs_conversion else ""


def require_known_format(path: Path) -> None:
    """Check that a file is JSON Lines, and in a format for training.

    Raises:
        DatasetError: It must be converted first; the hint names the command.
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    sniffed = sniff(path)
    fault = format_fault(sniffed)
    if fault:
        hint = _conversion_command(path, sniffed) or "download it again"
        raise DatasetError(f"{path} is not a chat dataset: {fault}", hint)


def read_checked_lines(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yield (line number, bytes without the newline, record) of every line; blank lines are passed over.

    Raises:
        DatasetError: The file is in another format, or a line is not a record; the message names the line.
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    require_known_format(path)
    for number, raw in read_lines(path):
        line = (raw or b"").removeprefix(BOM) if number == 1 else raw or b""
        clean = line.rstrip(b"\r")
        if raw is not None and not clean.strip():
            continue
        try:
            record = orjson.loads(clean)
        except orjson.JSONDecodeError:
            record = None
        if type(record) is not dict:
            fault = _line_fault(number, raw) if raw is not None else f"The line has over {MAX_LINE_BYTES:,} bytes."
            raise DatasetError(
                f"{path}, line {number}: {fault}", f"`ftpipe validate {quote(str(path))}` lists all faults of the file"
            )
        yield number, clean, record


def _line_fault(number: int, raw: bytes) -> str:
    """What the rules say about a line that is not a record."""
    line = Line(number, 0, raw)
    try:
        line.record = orjson.loads(raw)
        line.parsed = True
    except orjson.JSONDecodeError:
        pass
    for rule in all_rules():
        if rule.scope == "line" and rule.level == "error":
            for violation in rule.check(line):
                return f"{violation.message} ({rule.code})"
    return "The line is not a record."
