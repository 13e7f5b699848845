"""Reads records from what people really have: JSON lines, JSON arrays, CSV as Excel writes it, Parquet."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import orjson

from ftpipe.dataset.fixes.fixer import records_in
from ftpipe.dataset.reader import BOM, MAX_LINE_BYTES, open_binary, read_blocks
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import DatasetError, MissingExtraError

DELIMITERS = ",;\t|"
MAX_FIELD = 16 * 1024 * 1024
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class SourceRow(NamedTuple):
    """One record of a source, or why it is none."""

    row: int
    """1-based; the header of a table does not count."""
    line: int | None
    """1-based line of the file where it begins; ``None`` where the file has no lines."""
    record: dict[str, Any]
    fault: str = ""


def read_source_rows(path: Path) -> Iterator[SourceRow]:
    """The records of a file, whatever its kind.

    Raises:
        DatasetError: The file cannot be read as what its name says; the message names line and column.
        MissingExtraError: Parquet without pyarrow.
        UsageError: The file is missing.
        LocalStateError: It cannot be opened.
    """
    suffix = path.suffix.lower()
    open_binary(path).close()
    if suffix in (".csv", ".tsv"):
        yield from _csv(path)
    elif suffix == ".parquet":
        yield from _parquet(path)
    elif sniff(path).layout in ("array", "pretty"):
        yield from _json(path)
    else:
        yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[SourceRow]:
    row = number = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        for raw in [b""] if block.too_long else block.data.removesuffix(b"\n").split(b"\n"):
            number += 1
            text = (raw.removeprefix(BOM) if number == 1 else raw).strip()
            if text or block.too_long:
                row += 1
                yield _entry(row, number, text)


def _entry(row: int, line: int, text: bytes) -> SourceRow:
    if not text:
        return SourceRow(row, line, {}, "the line is too long")
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        return SourceRow(row, line, {}, f"not JSON: {exc.msg} at column {exc.colno}")
    return SourceRow(row, line, record) if type(record) is dict else SourceRow(row, line, {}, "not an object")


def _json(path: Path) -> Iterator[SourceRow]:
    try:
        records = records_in(path.read_text(encoding="utf-8-sig"))
    except UnicodeError as exc:
        raise _not_utf8(path) from exc
    for row, record in enumerate(records, 1):
        yield SourceRow(row, None, record) if isinstance(record, dict) else SourceRow(row, None, {}, "not an object")


def _csv(path: Path) -> Iterator[SourceRow]:
    csv.field_size_limit(MAX_FIELD)
    with path.open("rb") as peek:
        encoding = "utf-16" if peek.read(2) in _UTF16 else "utf-8-sig"
    with path.open(encoding=encoding, newline="") as file:
        try:
            reader = csv.reader(file, delimiter=delimiter_of(file), strict=True)
            names = [name.strip() for name in next(reader, [])]
            _refuse_bad_header(path, names)
            begins = reader.line_num + 1
            for row, cells in enumerate(filter(None, reader), 1):
                yield _cells(row, begins, names, cells)
                begins = reader.line_num + 1
        except UnicodeError as exc:
            raise _not_utf8(path) from exc
        except csv.Error as exc:
            raise DatasetError(
                f"{path.name} is no CSV from line {begins} on: {exc}.",
                "A quote that is not closed is the usual reason; write quotes inside a field twice.",
            ) from exc


def delimiter_of(file: TextIO) -> str:
    """What separates the columns: the sign that stands most often in the header, outside quotes; a comma by default."""
    header = file.readline()
    file.seek(0)
    outside = "".join(header.split('"')[::2])
    counts = {sign: outside.count(sign) for sign in DELIMITERS}
    return max(counts, key=lambda sign: counts[sign])


def _refuse_bad_header(path: Path, names: list[str]) -> None:
    if not any(names):
        raise DatasetError(f"{path.name} has no header line.", "Name the columns in the first line.")
    twice = [name for name, number in Counter(filter(None, names)).items() if number > 1]
    if twice:
        raise DatasetError(f"The header of {path.name} has the column {twice[0]!r} twice.", "Rename one of them.")


def _cells(row: int, line: int, names: list[str], cells: list[str]) -> SourceRow:
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
        return SourceRow(row, line, {}, f"{len(cells)} columns, the header has {len(names)}")
    return SourceRow(row, line, {name: cell for name, cell in zip(names, cells, strict=False) if name})


def _not_utf8(path: Path) -> DatasetError:
    """The error of a file in another encoding, with the place of its first wrong byte."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as exc:
                where = f"byte 0x{raw[exc.start]:02X} in line {number} at column {exc.start + 1}"
                return DatasetError(
                    f"{path.name} is not UTF-8: {where}.",
                    'In Excel save it as "CSV UTF-8"; elsewhere: iconv -f cp1252 -t utf-8 FILE > NEW',
                )
    return DatasetError(f"{path.name} cannot be decoded.", "Save it as UTF-8.")


def _parquet(path: Path) -> Iterator[SourceRow]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as exc:
        raise MissingExtraError("Parquet needs the package pyarrow.", "pip install 'ftpipe[parquet]'") from exc
    row = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                row += 1
                yield SourceRow(row, None, record)
    except (OSError, ValueError) as exc:
        raise DatasetError(
            f"{path.name} cannot be read as Parquet: {str(exc).splitlines()[0][:200]}", "Check the file."
        ) from exc
