"""Reads records from JSON Lines, JSON documents, tables and Parquet, of any encoding, also compressed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TextIO

import jsonlines
import orjson

from ftpipe.dataset import reader as line_reader
from ftpipe.dataset.decoder import TextFile, detect_text, open_unpacked, unpacked_name
from ftpipe.dataset.duplicate_keys import count_keys, may_have_duplicate_keys
from ftpipe.dataset.formats import LAYOUT_FAULTS, NOT_DATA, Layout
from ftpipe.dataset.json_documents import record_of, records_of, without_nan
from ftpipe.dataset.json_line import Line, parse_json_values
from ftpipe.dataset.reader import open_binary
from ftpipe.dataset.sniffer import PEEK_BYTES, binary_layout, is_json, layout_of, sample
from ftpipe.dataset.tables import SAMPLE_CHARACTERS, TABLE_SUFFIXES, SourceRow, is_table, read_csv, read_excel
from ftpipe.errors import DatasetError, MissingExtraError
from ftpipe.formatting import sanitize_line

MAX_DOCUMENT_CHARACTERS = 1024 * 1024 * 1024
"""Longest JSON document that is read as a whole."""


def read_source_rows(
    path: Path, *, encoding: str | None = None, sheet: str | None = None, has_header: bool = True
) -> Iterator[SourceRow]:
    """The records of a file, whatever its format, encoding and compression.

    Args:
        path: The file.
        encoding: Encoding of a text; detected if not given.
        sheet: Name of the sheet of an Excel workbook; not needed if only one has rows.
        has_header: Whether the first row of a table names its columns; else their names are 1, 2, …

    Raises:
        DatasetError: The file cannot be read; the message names line and column.
        MissingExtraError: A package for this format is not installed.
        UsageError: The file is missing, or there is no such encoding.
        LocalStateError: It cannot be opened.
    """
    layout = _binary_layout(path)
    if layout == "parquet":
        yield from _parquet(path)
    elif layout == "excel":
        yield from read_excel(path, sheet, has_header=has_header)
    elif layout in NOT_DATA:
        raise DatasetError(f"{path.name}: {LAYOUT_FAULTS[layout]}", "Download it again.")
    elif layout == "binary":
        raise DatasetError(
            f"{path.name} is neither text nor a table.", "Unpack it, or export the data as CSV or JSON Lines."
        )
    else:
        yield from _text(source_text(path, encoding), has_header=has_header)


def _binary_layout(path: Path) -> Layout | None:
    with open_binary(path) as file:
        return binary_layout(file.read(PEEK_BYTES) or b"", path.suffix)


def source_text(path: Path, encoding: str | None = None) -> TextFile:
    """Compression and encoding of a text file; what was found for an unchanged file is remembered.

    Raises:
        DatasetError: It is no text, or damaged.
    """
    open_binary(path).close()
    facts = path.stat()
    return _detected(path, encoding, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=16)
def _detected(path: Path, encoding: str | None, _size: int, _modified: int) -> TextFile:
    return detect_text(path, encoding)


def guessed_encoding(path: Path) -> TextFile | None:
    """The encoding of a text file that was guessed from its words; ``None`` if it shows for certain.

    Raises:
        DatasetError: It is no text, or damaged.
    """
    text = source_text(path) if _binary_layout(path) in (None, "compressed") else None
    return text if text is not None and text.sample else None


def is_table_file(path: Path, encoding: str | None = None) -> bool:
    """True for CSV and Excel, whose cells are all text, and for any file that is named like CSV.

    Args:
        path: The file.
        encoding: Encoding of a text; detected if not given.

    Raises:
        DatasetError: It is no text, or damaged.
    """
    if unpacked_name(path).lower().endswith(TABLE_SUFFIXES):
        return True
    layout = _binary_layout(path)
    if layout in (None, "compressed"):
        return _text_layout(source_text(path, encoding)) == "table"
    return layout == "excel"


def _text(text: TextFile, *, has_header: bool = True) -> Iterator[SourceRow]:
    layout = _text_layout(text)
    try:
        if layout == "table":
            yield from read_csv(text, has_header=has_header)
        elif layout == "document":
            yield from _json(text)
        else:
            yield from _json_lines(text)
    except UnicodeError as exc:
        raise _not_decodable(text) from exc


def _text_layout(text: TextFile) -> Literal["table", "document", "lines"]:
    try:
        with text.open(errors="replace") as file:
            start = file.read(PEEK_BYTES)
            is_whole = not file.read(1)
    except UnicodeError as exc:
        raise _not_decodable(text) from exc
    head = start.removeprefix("\ufeff").encode("utf-8", "replace")
    records = sample(head)
    layout = layout_of(head, is_whole, bool(records))
    stripped = head.lstrip()
    is_like_json = bool(records) or stripped[:1] in (b"{", b"[")
    is_document = layout in ("array", "pretty") or stripped[:2] == b"[["
    is_document |= stripped[:1] == b"[" and not is_json(stripped.split(b"\n")[0])
    has_table_name = text.name.lower().endswith(TABLE_SUFFIXES)
    if not is_like_json and (has_table_name or is_table(start[:SAMPLE_CHARACTERS])):
        return "table"
    if is_document or (len(records) == 1 and is_whole and records_of(records[0], text.name)):
        return "document"
    return "lines"


def _json_lines(text: TextFile) -> Iterator[SourceRow]:
    too_long: set[int] = set()
    # in UTF-8, a broken byte costs only its row
    with text.open(newline="\n", errors="surrogateescape" if text.encoding == "utf-8" else "strict") as file:
        reader = jsonlines.Reader(_bounded_lines(file, too_long), loads=_loads)
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
                record, error = _tolerant(exc) if number not in too_long else ({}, "the line is too long")
            row += 1
            yield SourceRow(row, number, without_nan(record), error)


def _bounded_lines(file: TextIO, too_long: set[int]) -> Iterator[bytes]:
    """The lines of a file; one that is too long is empty, and its number is added to ``too_long``."""
    limit = line_reader.MAX_LINE_BYTES
    for number in itertools.count(1):
        line = file.readline(limit)
        if not line:
            return
        if len(line) == limit and not line.endswith("\n"):
            while (rest := file.readline(limit)) and not rest.endswith("\n"):
                pass
            too_long.add(number)
            line = ""
        yield line.strip(" \t\r\n\ufeff").encode("utf-8", "surrogateescape")


class _RepeatedKeyError(ValueError):
    """An object has a key twice, of which a parser keeps one."""


def _loads(line: str) -> Any:  # noqa: ANN401  # any JSON value
    value = orjson.loads(line)
    _refuse_repeated_keys(line, value)
    return value


def _refuse_repeated_keys(text: str, value: Any) -> None:  # noqa: ANN401  # any JSON value
    raw = text.encode("utf-8", "surrogatepass")
    if may_have_duplicate_keys(raw, count_keys(value)) and (repeated := Line(0, 0, raw).tolerant_parse.duplicates):
        path, _, number = repeated[0]
        raise _RepeatedKeyError(f"the key {path} stands {number} times in one object")


def _tolerant(exc: jsonlines.InvalidLineError) -> tuple[dict[str, Any], str]:
    """The record of a line that only Python reads, because it has NaN, or else the reason why it cannot be read."""
    cause = exc.__cause__
    if isinstance(cause, _RepeatedKeyError):
        return {}, str(cause)
    if not isinstance(cause, UnicodeDecodeError | orjson.JSONDecodeError) and (record := record_of(_value(exc.line))):
        return record, ""
    if not isinstance(cause, orjson.JSONDecodeError):
        return {}, "not UTF-8" if isinstance(cause, UnicodeDecodeError) else "not an object"
    reason = f"not JSON: {cause.msg} at column {cause.colno}"
    try:
        record = json.loads(exc.line)
        if not isinstance(record, dict):
            return {}, reason
        json.dumps(without_nan(record), allow_nan=False)
    except (ValueError, RecursionError):
        return {}, reason
    return record, ""


def _value(line: str | bytes) -> Any:  # noqa: ANN401  # any JSON value
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _json(text: TextFile) -> Iterator[SourceRow]:
    with text.open() as file:
        content = file.read(MAX_DOCUMENT_CHARACTERS + 1).removeprefix("\ufeff")
    if len(content) > MAX_DOCUMENT_CHARACTERS:
        raise DatasetError(
            f"{text.name} is one JSON document of more than {MAX_DOCUMENT_CHARACTERS:,} characters.",
            "Write one record per line: jq -c '.[]' FILE > NEW.jsonl",
        )
    records = _document(text, content)
    for row, value in enumerate(records, 1):
        record = record_of(value)
        if record is not None:
            yield SourceRow(row, None, without_nan(record))
        else:
            yield SourceRow(row, None, {}, "not an object")


def _document(text: TextFile, content: str) -> list[Any]:
    """The records of one JSON document, or of several after each other."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as exc:
        values = parse_json_values(content)
        if not values:
            place = f" at line {exc.lineno}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
            reason = (
                exc.msg if isinstance(exc, json.JSONDecodeError) else "it is nested too deeply, or a number is too long"
            )
            raise DatasetError(f"{text.name} is not valid JSON: {reason}{place}.", "Correct the file.") from exc
        return values
    try:
        _refuse_repeated_keys(content, value)
    except _RepeatedKeyError as exc:
        raise DatasetError(f"{text.name}: {exc}.", "Keep one of them, and convert it again.") from None
    records = records_of(value, text.name)
    return [value] if records is None else records


def _not_decodable(text: TextFile) -> DatasetError:
    """The error for a file in an unknown encoding, with the position of the first wrong byte."""
    codec = text.encoding
    with open_unpacked(text.path, text.compression) as file:
        if codec == "utf-8":
            for number, raw in enumerate(file, 1):
                try:
                    raw.decode("utf-8")
                except UnicodeDecodeError as exc:
                    position = f"byte 0x{raw[exc.start]:02X} in line {number} at column {exc.start + 1}"
                    word = sanitize_line(text.word_against_cp1252, 40)
                    other = f"; read as Windows-1252, “{word}” makes no sense" if word else ""
                    return DatasetError(
                        f"{text.name} is not UTF-8: {position}{other}.",
                        "Name its encoding with `--encoding NAME`, for example --encoding cp1252; in Excel, save it as"
                        ' "CSV UTF-8".',
                    )
    return DatasetError(
        f"{text.name} cannot be decoded as {codec}.", "Name its encoding with --encoding, or save it as UTF-8."
    )


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
                yield SourceRow(row, None, without_nan(record))
    except (OSError, ValueError) as exc:
        raise DatasetError(
            f"{path.name} cannot be read as Parquet: {str(exc).splitlines()[0][:200]}", "Check the file."
        ) from exc
