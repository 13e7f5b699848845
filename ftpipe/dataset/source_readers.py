"""Reads records from JSON Lines, JSON arrays, CSV (also as Excel writes it) and Parquet files."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jsonlines
import orjson

from ftpipe.dataset.json_line import parse_json_values
from ftpipe.dataset.reader import open_binary, read_lines
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import DatasetError, MissingExtraError

DELIMITERS = ",;\t|"
MAX_FIELD_CHARACTERS = 16 * 1024 * 1024
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class SourceRow(NamedTuple):
    """One record of a source, or the reason why there is none."""

    row: int
    """1-based, without the header of a table."""
    line: int | None
    """1-based line of the file where it starts; ``None`` if the file has no lines."""
    record: dict[str, Any]
    error: str = ""


def read_source_rows(path: Path) -> Iterator[SourceRow]:
    """The records of a file, read according to its suffix.

    Raises:
        DatasetError: The file does not match its suffix; the message names line and column.
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
    too_long: set[int] = set()
    reader = jsonlines.Reader(_bounded_lines(path, too_long), loads=orjson.loads)
    row = 0
    for number in itertools.count(1):
        record, error = {}, ""
        try:
            record = reader.read(type=dict)
        except EOFError:
            return
        except jsonlines.InvalidLineError as exc:
            if not exc.line.strip() and number not in too_long:
                continue
            error = "the line is too long" if number in too_long else _json_error(exc.__cause__)
        row += 1
        yield SourceRow(row, number, record, error)


def _bounded_lines(path: Path, too_long: set[int]) -> Iterator[bytes]:
    """The lines of a file; one that is too long is empty, and its number is added to ``too_long``."""
    for number, raw in read_lines(path):
        if raw is None:
            too_long.add(number)
        yield (raw or b"").strip()


def _json_error(cause: BaseException | None) -> str:
    if isinstance(cause, orjson.JSONDecodeError):
        return f"not JSON: {cause.msg} at column {cause.colno}"
    return "not UTF-8" if isinstance(cause, UnicodeDecodeError) else "not an object"


def _json(path: Path) -> Iterator[SourceRow]:
    try:
        records = parse_json_values(path.read_text(encoding="utf-8-sig"))
    except UnicodeError as exc:
        raise _not_utf8(path) from exc
    for row, record in enumerate(records, 1):
        yield SourceRow(row, None, record) if isinstance(record, dict) else SourceRow(row, None, {}, "not an object")


def _csv(path: Path) -> Iterator[SourceRow]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with path.open("rb") as binary:
        encoding = "utf-16" if binary.read(2) in _UTF16_BOMS else "utf-8-sig"
    with path.open(encoding=encoding, newline="") as file:
        try:
            reader = csv.reader(file, delimiter=delimiter_of(file), strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_header(path, names)
            first_line = reader.line_num + 1
            for row, cells in enumerate(filter(None, reader), 1):
                yield _table_row(row, first_line, names, cells)
                first_line = reader.line_num + 1
        except UnicodeError as exc:
            raise _not_utf8(path) from exc
        except csv.Error as exc:
            raise DatasetError(
                f"{path.name} is not valid CSV from line {first_line} on: {exc}.",
                "The usual cause is a quote that is not closed; double each quote inside a field.",
            ) from exc


def delimiter_of(file: TextIO) -> str:
    """The delimiter that is most frequent in the header outside quotes; a comma if there is none."""
    header = file.readline()
    file.seek(0)
    outside = "".join(header.split('"')[::2])
    counts = {delimiter: outside.count(delimiter) for delimiter in DELIMITERS}
    return max(counts, key=lambda delimiter: counts[delimiter])


def _check_header(path: Path, names: list[str]) -> None:
    if not any(names):
        raise DatasetError(f"{path.name} has no header line.", "Name the columns in the first line.")
    duplicates = [name for name, number in Counter(filter(None, names)).items() if number > 1]
    if duplicates:
        raise DatasetError(f"The header of {path.name} has the column {duplicates[0]!r} twice.", "Rename one of them.")


def _table_row(row: int, line: int, names: list[str], cells: list[str]) -> SourceRow:
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
        return SourceRow(row, line, {}, f"it has {len(cells)} columns, but the header has {len(names)}")
    return SourceRow(row, line, {name: cell for name, cell in zip(names, cells, strict=False) if name})


def _not_utf8(path: Path) -> DatasetError:
    """The error for a file in another encoding, with the position of the first wrong byte."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as exc:
                position = f"byte 0x{raw[exc.start]:02X} in line {number} at column {exc.start + 1}"
                return DatasetError(
                    f"{path.name} is not UTF-8: {position}.",
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
