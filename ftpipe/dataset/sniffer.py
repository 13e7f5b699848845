"""Detects byte order mark, layout and format from the beginning of a file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ftpipe.dataset.decoder import compression_of
from ftpipe.dataset.encoding import unicode_encoding
from ftpipe.dataset.formats import RFT_RESERVED, Layout, format_of, legacy_shape
from ftpipe.dataset.reader import BOM, open_binary
from ftpipe.dataset.tables import SAMPLE_CHARACTERS, TABLE_SUFFIXES, is_table

PEEK_BYTES = 4 * 1024 * 1024
SAMPLE_RECORDS = 200
EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_BINARY_MAGIC = (
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf",
    b"%PDF-",
    b"SQLite format 3\x00",
    b"ARROW1",
    b"\x89PNG",
    b"Rar!",
)


class SniffResult(NamedTuple):
    """What the beginning of a file shows."""

    size: int
    has_bom: bool
    layout: Layout
    format: str
    legacy_shape: str
    """Name of the old format; empty for the current ones."""
    has_records: bool
    """Whether some of the first lines are JSON objects."""
    grader_fields: tuple[str, ...]
    """Keys that nearly all sampled reinforcement records have, so graders are taken to read them."""


def sniff(path: Path, method: str | None = None) -> SniffResult:
    """Read the first megabytes of a file.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    with open_binary(path) as file:
        head = file.read(PEEK_BYTES) or b""
        size = file.seek(0, 2)
    has_bom = head.startswith(BOM)
    head = head[len(BOM) :] if has_bom else head
    records = sample(head)
    layout = binary_layout(head, path.suffix) or layout_of(head, len(head) >= size - len(BOM), bool(records))
    if layout == "lines" and not records and is_table_text(head, path.suffix):
        layout = "table"
    legacy = next((name for name in map(legacy_shape, records) if name), "")
    detected = format_of(records, method)
    fields = usual_keys(records) if detected == "rft" else ()
    legacy = legacy if detected == "legacy" else ""
    return SniffResult(size, has_bom, layout, detected, legacy, bool(records), fields)


def usual_keys(records: list[dict[str, Any]]) -> tuple[str, ...]:
    """Keys, other than the reserved ones, that all records have except one or 2 %."""
    counts = Counter(key for record in records for key in record if key not in RFT_RESERVED)
    missing = max(1, len(records) // 50)
    return tuple(key for key, number in counts.items() if len(records) >= 5 and number >= len(records) - missing)


def sample(head: bytes) -> list[dict[str, Any]]:
    """The first records that can be parsed."""
    records = []
    for raw in head.split(b"\n", 4 * SAMPLE_RECORDS)[: 4 * SAMPLE_RECORDS]:
        try:
            record = orjson.loads(raw)
        except orjson.JSONDecodeError:
            continue
        if type(record) is dict:
            records.append(record)
            if len(records) == SAMPLE_RECORDS:
                break
    return records


def binary_layout(head: bytes, suffix: str) -> Layout | None:
    """What kind of file the first bytes of a file show; ``None`` for text."""
    suffix = suffix.lower()
    if head.startswith(_LFS_POINTER):
        return "lfs"
    if _HTML.match(head):
        return "html"
    if compression_of(head):
        return "compressed"
    if head.startswith(b"PAR1") or (suffix == ".parquet" and b"\x00" in head[:64]):
        return "parquet"
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip or head.startswith(b"\xd0\xcf\x11\xe0"):
        is_workbook = suffix in EXCEL_SUFFIXES or (is_zip and b"xl/" in head[:4096])
        return "excel" if is_workbook else "binary"
    return "binary" if head.startswith(_BINARY_MAGIC) else None


def is_table_text(head: bytes, suffix: str) -> bool:
    """True for the beginning of a CSV file, by its name or its rows."""
    text = head[:SAMPLE_CHARACTERS].decode("utf-8", "replace").removeprefix("\ufeff")
    if not text.strip() or text.lstrip()[:1] in ("{", "["):
        return False
    return suffix.lower() in TABLE_SUFFIXES or is_table(text)


def layout_of(head: bytes, whole: bool, has_records: bool) -> Layout:
    """Whether the file is lines at all: UTF-16 and binary files, arrays and pretty-printed JSON are not."""
    if not has_records:
        encoding = unicode_encoding(head)
        if encoding.startswith(("utf-16", "utf-32")):
            return "utf16"
        if not encoding:
            return "binary"
    start = head.lstrip()
    first_line = start.split(b"\n", 1)[0].strip()
    if start.startswith(b"[") and not is_json(first_line) and looks_like_json(start, whole):
        return "array"
    if start.startswith(b"[") and not has_records and start.rstrip() == first_line and looks_like_json(start, whole):
        return "array"
    return "pretty" if first_line == b"{" and looks_like_json(start, whole) else "lines"


def is_json(raw: bytes) -> bool:
    """True if the strict parser accepts the bytes."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def looks_like_json(start: bytes, whole: bool) -> bool:
    """True for one JSON value; of a large file only the beginning is looked at."""
    if not whole:
        return start[1:].lstrip()[:1] in (b"{", b'"', b"[")
    if start[:1] == b"[" and start.rstrip()[-1:] != b"]":
        return False
    try:
        value = orjson.loads(start)
    except orjson.JSONDecodeError:
        return start[:1] == b"{" and start.count(b"\n{") > 0 and start.rstrip()[-1:] == b"}"
    return type(value) is dict or (type(value) is list and any(type(item) is dict for item in value))
