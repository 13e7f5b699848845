"""Reads tables as records: CSV as Excel, pandas and other programs write it, and Excel workbooks."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO

from ftpipe.dataset.decoder import MAX_EXPANSION, MIN_UNPACKED_LIMIT_BYTES, TextFile
from ftpipe.errors import DatasetError, MissingExtraError

TABLE_SUFFIXES = (".csv", ".tsv")
DELIMITERS = ",;\t|"
MAX_FIELD_CHARACTERS = 16 * 1024 * 1024
SAMPLE_CHARACTERS = 64 * 1024
SAMPLE_ROWS = 50
MAX_SHEET_CELLS = 50_000_000
_NAMELESS = re.compile(r"column \d+$")
_CELL_REFERENCE = re.compile(rb"""\br\s*=\s*["']([A-Za-z]{0,3})(\d{1,7})["']""")
_DECLARATION = re.compile(r'\ufeff?"?sep=(.)"?\r?\n', re.IGNORECASE)
"""A first line by which Excel is told the delimiter. Source: measured with files of Excel, 2026-11-28."""


class SourceRow(NamedTuple):
    """One record of a source, or the reason why there is none."""

    row: int
    """1-based, without the header of a table."""
    line: int | None
    """1-based line of the file where it starts; ``None`` if the file has no lines."""
    record: dict[str, Any]
    error: str = ""


def read_csv(text: TextFile, *, has_header: bool = True) -> Iterator[SourceRow]:
    """The rows of a CSV file, with the delimiter that its first rows show.

    Raises:
        DatasetError: It has no header, or is not valid CSV; the message names the line.
    """
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with text.open() as file:
        sample = file.read(SAMPLE_CHARACTERS)
    declaration = _DECLARATION.match(sample)
    delimiter = declaration[1] if declaration else delimiter_of(sample)
    with text.open() as file:
        lines = _lines(file)
        skipped = len(list(islice(lines, 1))) if declaration else 0
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        first_line = skipped + 1
        row = 0
        try:
            names = header_names(text.name, next(reader, [])) if has_header else []
            first_line = skipped + reader.line_num + 1
            for cells in reader:
                if cells:
                    row += 1
                    names = names or column_numbers(cells)
                    yield table_row(row, first_line, names, cells, has_header=has_header)
                first_line = skipped + reader.line_num + 1
        except csv.Error as exc:
            raise DatasetError(
                f"{text.name} is not valid CSV from line {first_line} on: {exc}.",
                "The usual cause is a quote inside a field: it must be doubled, not written with a backslash.",
            ) from exc


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file without its byte order mark; a field of one cannot be longer than the limit."""
    first = True
    while line := file.readline(MAX_FIELD_CHARACTERS * 2):
        yield line.removeprefix("\ufeff") if first else line
        first = False


def delimiter_of(sample: str) -> str:
    """The delimiter that divides the first rows of a table best; a comma if none divides them.

    Args:
        sample: The beginning of the file.
    """
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        score = _score(sample.removeprefix("\ufeff"), delimiter)
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _score(sample: str, delimiter: str) -> tuple[float, int]:
    """The share of rows with as many cells as the header, and their number; zero if there is one column."""
    widths: list[int] = []
    try:
        for cells in islice(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), SAMPLE_ROWS):
            if cells:
                widths.append(len(cells))
    except csv.Error:
        pass
    if len(widths) > 2 and len(sample) >= SAMPLE_CHARACTERS:
        widths.pop()  # the sample may end in the middle of a row
    if not widths or widths[0] < 2:
        return 0.0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


def is_table(sample: str) -> bool:
    """True if a text without a telling name looks like CSV: a header of several short names, and rows of its width."""
    delimiter = delimiter_of(sample)
    share, width = _score(sample.removeprefix("\ufeff"), delimiter)
    rows = list(islice(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), 2))
    names = rows[0] if rows else []
    return width > 1 and len(rows) > 1 and share > 0.9 and all(0 < len(name.strip()) <= 60 for name in names)


def header_names(file_name: str, cells: Iterable[str]) -> list[str]:
    """The names of the columns, each on one line; one without a name is called by its number.

    Raises:
        DatasetError: There is none, or one occurs twice.
    """
    names = [" ".join(cell.split()) for cell in cells]
    if not any(names):
        raise DatasetError(f"{file_name} has no header line.", "Name the columns in the first line.")
    names = [name or f"column {number}" for number, name in enumerate(names, 1)]
    duplicates = [name for name, number in Counter(names).items() if number > 1]
    if duplicates:
        raise DatasetError(f"The header of {file_name} has the column {duplicates[0]!r} twice.", "Rename one of them.")
    return names


def column_numbers(cells: list[str]) -> list[str]:
    """The names 1, 2, … of the columns of a table without a header."""
    return [str(number) for number in range(1, len(cells) + 1)]


def table_row(row: int, line: int, names: list[str], cells: list[str], *, has_header: bool) -> SourceRow:
    """The record of a row; one with more cells than the header has an error instead."""
    if has_header and len(cells) > 1 and len(cells) == len(names) and all(map(_is_header_cell, cells, names)):
        return SourceRow(row, line, {}, "it repeats the header")
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
        return SourceRow(
            row,
            line,
            {},
            f"it has {len(cells)} columns, but the {'header' if has_header else 'first row'} has {len(names)}",
        )
    return SourceRow(
        row, line, {name: cell for name, cell in zip(names, cells, strict=False) if cell or not _NAMELESS.match(name)}
    )


def _is_header_cell(cell: str, name: str) -> bool:
    return " ".join(cell.removeprefix("\ufeff").split()) == name


def read_excel(path: Path, sheet: str | None = None, *, has_header: bool = True) -> Iterator[SourceRow]:
    """The rows of an Excel or OpenDocument workbook.

    python-calamine reads xlsx, xlsb, xls and ods and is released regularly; openpyxl reads xlsx alone and has had no
    release since June 2024. Source: pypi.org, 2026-11-28.

    Args:
        path: The workbook.
        sheet: Name of the sheet; not needed if only one has rows.
        has_header: Whether the first row names the columns; else their names are 1, 2, …

    Raises:
        DatasetError: It cannot be read, or several sheets have rows.
        MissingExtraError: python-calamine is not installed.
    """
    try:
        import python_calamine
    except ImportError as exc:
        raise MissingExtraError(
            "reading Excel workbooks needs the package python-calamine",
            "pip install 'ftpipe[excel]', or save the sheet as CSV UTF-8",
        ) from exc
    _check_size(path)
    try:
        workbook = python_calamine.CalamineWorkbook.from_path(str(path))
        known = list(workbook.sheet_names)
        shown = python_calamine.SheetVisibleEnum.Visible
        visible = {one.name for one in workbook.sheets_metadata if one.visible == shown}
        chosen = [name for name in known if name == sheet or (sheet is None and name in visible)]
        sheets = [one for name in chosen if (one := workbook.get_sheet_by_name(name)).height]
    except (python_calamine.CalamineError, OSError, ValueError) as exc:
        raise _unreadable(path, exc) from exc
    if sheet is not None and sheet not in known:
        raise DatasetError(f"{path.name} has no sheet {sheet!r}.", f"It has {', '.join(map(repr, known[:20]))}.")
    if len(sheets) != 1:
        raise _not_one_sheet(path, [one.name for one in sheets])
    first_line = (sheets[0].start or (0, 0))[0] + 1
    yield from _sheet_rows(path, sheets[0].iter_rows(), first_line, has_header=has_header)


def _sheet_rows(path: Path, rows: Iterator[list[Any]], first_line: int, *, has_header: bool) -> Iterator[SourceRow]:
    """The rows below the header; ``first_line`` is the number of the first row of the sheet that has cells."""
    names: list[str] = []
    number = 0
    for line, row in enumerate(rows, first_line):
        cells = [_cell_text(cell) for cell in row]
        if not names and has_header:
            names = header_names(path.name, cells)
        elif any(cells):
            number += 1
            names = names or column_numbers(cells)
            yield table_row(number, line, names, cells, has_header=has_header)


def _unreadable(path: Path, exc: Exception) -> DatasetError:
    return DatasetError(
        f"{path.name} cannot be read as an Excel workbook: {exc}.",
        "Open it in Excel or LibreOffice and save it again, as xlsx or as CSV UTF-8.",
    )


def _not_one_sheet(path: Path, names: list[str]) -> DatasetError:
    if not names:
        return DatasetError(f"{path.name} has no rows.", "Write the names of the columns into the first row.")
    listed = ", ".join(map(repr, names[:20]))
    return DatasetError(
        f"{path.name} has {len(names)} sheets with rows: {listed}.", f"Choose one, for example --sheet {names[0]!r}."
    )


def _check_size(path: Path) -> None:
    """Refuse a workbook that would fill the memory.

    calamine holds a sheet as one block from its first cell to its last: two cells of a file of 600 bytes can need
    400 GB. Source: measured with python-calamine 0.9.1, 2026-11-28.
    """
    with path.open("rb") as start:
        if start.read(2) != b"PK":
            return  # the older format xls, whose sheets have at most 65,536 rows and 256 columns
    hint = "Save the sheet as CSV UTF-8."
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > max(MIN_UNPACKED_LIMIT_BYTES, MAX_EXPANSION * path.stat().st_size):
                raise DatasetError(f"{path.name} unpacks to {size:,} bytes.", hint)
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    rows, columns = _used_area(file)
                if rows * columns > MAX_SHEET_CELLS:
                    raise DatasetError(f"A sheet of {path.name} has {rows:,} rows and {columns:,} columns.", hint)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as exc:
        raise _unreadable(path, exc) from exc


def _used_area(file: IO[bytes]) -> tuple[int, int]:
    """Numbers of the last row and of the last column that the XML of a sheet names."""
    rows = columns = 0
    rest = b""
    while chunk := file.read(1024 * 1024):
        for letters, digits in _CELL_REFERENCE.findall(rest + chunk):
            column = 0
            for letter in letters.upper():
                column = column * 26 + letter - 64
            rows, columns = max(rows, int(digits)), max(columns, column)
        rest = chunk[-32:]
    return rows, columns


def _cell_text(value: object) -> str:
    """A cell as Excel shows it, without its number format."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, dt.datetime):
        return value.isoformat(" ") if value.time() != dt.time() else value.date().isoformat()
    return str(value)
