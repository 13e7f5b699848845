"""Detects byte order mark, layout and format from the beginning of a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ftpipe.dataset.formats import RFT_RESERVED, Layout, format_of, legacy_shape
from ftpipe.dataset.reader import BOM, open_binary

PEEK_BYTES = 4 * 1024 * 1024
SAMPLE_RECORDS = 200


class SniffResult(NamedTuple):
    """What the beginning of a file shows."""

    size: int
    has_bom: bool
    layout: Layout
    format: str
    legacy_shape: str
    """Name of the old format; empty for the current ones."""
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
    layout = layout_of(head, len(head) >= size - len(BOM), bool(records))
    legacy = next((name for name in map(legacy_shape, records) if name), "")
    detected = format_of(records, method)
    fields = usual_keys(records) if detected == "rft" else ()
    return SniffResult(size, has_bom, layout, detected, legacy if detected == "legacy" else "", fields)


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


def layout_of(head: bytes, whole: bool, has_records: bool) -> Layout:
    """Whether the file is lines at all: UTF-16 and binary files, arrays and pretty-printed JSON are not."""
    if (
        head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))
        or head[:4].count(0) >= 2
        or head[:2].count(0) == 1
    ):
        return "utf16" if b"{" in head[:8] or head.startswith((b"\xff\xfe", b"\xfe\xff")) else "binary"
    if b"\x00" in head[:4096] and not has_records:
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
