"""Converts a file of any known format to chat or preference JSONL, and accounts for its rows and keys."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import jsonlines
import orjson

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.conversion.examples import Example, read_example
from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers, find_markers
from ftpipe.dataset.conversion.row import ConversionOptions, Messages, Row, SkipRow, UnmappedKey
from ftpipe.dataset.source_readers import is_table_file, read_source_rows
from ftpipe.dataset.tables import SourceRow
from ftpipe.errors import DatasetError
from ftpipe.formatting import relative_path
from ftpipe.output_files import check_outputs, open_output
from ftpipe.suggestions import did_you_mean

MAX_REPORTED_ROWS = 100
MAX_KEY_NAMES = 1000
"""Key names that are counted one by one; further ones are counted together."""
OTHER_KEYS = "(other keys)"
NEGATIVE = "it is a negative example, which must not be learnt"


class SkippedRow(NamedTuple):
    """A row that could not be converted."""

    row: int
    line: int | None
    column: str
    """Empty if the reason does not concern one column."""
    reason: str

    def __str__(self) -> str:
        """``row 4 (line 6), column answer: it is empty``."""
        line = f" (line {self.line})" if self.line is not None and self.line != self.row else ""
        column = f", column {self.column}" if self.column else ""
        return f"row {self.row}{line}{column}: {self.reason}"


class ConversionResult(NamedTuple):
    """The output file, and what became of the rows and keys of the source."""

    output: Path
    source_format: str
    """Name of the format of the first converted record."""
    formats: dict[str, int]
    """Converted rows by format."""
    purpose: str
    """``chat`` or ``preference``."""
    records: int
    skipped: tuple[SkippedRow, ...]
    """The first hundred rows that were skipped."""
    skipped_total: int
    skipped_reasons: dict[str, int]
    """Skipped rows by reason."""
    keys_used: dict[str, int]
    keys_ignored: dict[str, int]
    """How often each key of the converted rows was filled and left out."""
    stripped: str
    """Markers of the legacy format that were taken off; empty if there were none."""
    pairs_possible: int
    """Prompts that have a good and a bad answer, of which only the good one was written."""


def convert(
    path: Path, output: Path, options: ConversionOptions | None = None, *, force: bool = False
) -> ConversionResult:
    """Convert a file to chat JSONL, or to preference JSONL if it compares answers.

    Args:
        path: The file to convert.
        output: The new file.
        options: What to do where there is a choice.
        force: Replace the output if it exists.

    Raises:
        DatasetError: No record could be converted, a named column is missing, a key changes what is learnt and has no
            place in the result, or the file does not match its suffix.
        MissingExtraError: The file needs a package that is not installed.
        UsageError: The file is missing, or the output exists.
        LocalStateError: A file cannot be read or written.
    """
    check_outputs([("--output", output)], inputs=[path], force=force)
    options = options or ConversionOptions()
    first = next(_rows(path, options), None)
    if first is not None:
        _require_columns(path, first, options)
    converter = _Converter(path, options, _markers_of(path, first, options))
    with open_output(output, force=force) as file:
        converter.run(jsonlines.Writer(file, dumps=orjson.dumps))
        if not converter.records:
            reason = str(converter.skipped[0]) if converter.skipped else "it has no rows"
            hint = (
                _columns_hint(path, first, options)
                if _concerns_columns(converter.skipped)
                else "Correct it, and convert it again."
            )
            raise DatasetError(f"No record of {path.name} could be converted: {reason}.", hint)
    return converter.result(output)


def purpose_of(path: Path, options: ConversionOptions) -> str:
    """``preference`` or ``chat``: what :func:`convert` writes, as the first row shows that can be read.

    Raises:
        DatasetError: The file cannot be read.
    """
    if options.purpose:
        return options.purpose
    is_table = is_table_file(path, options.encoding)
    for source in _rows(path, options):
        try:
            example = read_example(Row(source.record, options, is_table=is_table), LegacyMarkers())
        except (SkipRow, RecursionError):
            continue
        except UnmappedKey:
            break
        return "chat" if example.preferred is None else "preference"
    return "chat"


def _rows(path: Path, options: ConversionOptions) -> Iterator[SourceRow]:
    return read_source_rows(path, encoding=options.encoding, sheet=options.sheet, has_header=options.has_header)


def _require_columns(path: Path, first: SourceRow, options: ConversionOptions) -> None:
    for column in options.columns or ():
        if first.record and column not in first.record:
            hint = _no_header_hint(path, first, options) or did_you_mean(column, first.record)
            raise DatasetError(f"{path.name} has no column {column!r}.", hint)


def _concerns_columns(skipped: list[SkippedRow]) -> bool:
    """True if other columns could help."""
    return any("no column has" in row.reason or "--columns" in row.reason for row in skipped[:1])


def _no_header_hint(path: Path, first: SourceRow, options: ConversionOptions) -> str:
    """The command for a table whose first row is no header; empty if it looks like one."""
    is_sentence = any(name.rstrip().endswith((".", "?", "!")) or len(name.split()) > 5 for name in first.record)
    if not is_sentence or not is_table_file(path, options.encoding):
        return ""
    command = f"ftpipe convert {quote(str(relative_path(path)))} --no-header --columns 1,2"
    return f"There seems to be no header row: `{command}` takes the columns by their numbers"


def _columns_hint(path: Path, first: SourceRow | None, options: ConversionOptions) -> str:
    """The command with the first two columns that have text, and the names of the others."""
    record = first.record if first else {}
    if first and options.has_header and (hint := _no_header_hint(path, first, options)):
        return hint
    texts = [name for name, value in record.items() if isinstance(value, str) and any(map(str.isalpha, value))]
    if len(texts) < 2 or "," in "".join(texts[:2]):
        names = ", ".join(list(record)[:12])
        return f"Name the columns: --columns QUESTION,ANSWER{f'; the file has {names}' if names else ''}"
    command = f"ftpipe convert {quote(str(relative_path(path)))} --columns {quote(','.join(texts[:2]))}"
    others = [name for name in record if name not in texts[:2]]
    return f"`{command}`, or choose from {', '.join([*texts[:2], *others][:12])}" if others else command


def _markers_of(path: Path, first: SourceRow | None, options: ConversionOptions) -> LegacyMarkers:
    """The markers of a legacy file; other files are not read for them."""
    if first is None or not {"prompt", "completion"} <= first.record.keys():
        return LegacyMarkers()
    return find_markers(row.record for row in _rows(path, options) if not row.error)


def _digest(messages: Messages) -> bytes:
    try:
        return hashlib.sha256(canonical_json(messages)).digest()
    except TypeError as exc:
        raise SkipRow("", "it has a value that JSON cannot represent") from exc


class _Converter:
    """The conversion of one file."""

    def __init__(self, path: Path, options: ConversionOptions, markers: LegacyMarkers) -> None:
        self.path, self.options, self.markers = path, options, markers
        self.is_table = is_table_file(path, options.encoding)
        self.purpose = options.purpose
        self.formats: Counter[str] = Counter()
        self.records = self.skipped_total = 0
        self.skipped: list[SkippedRow] = []
        self.skipped_reasons: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.marked: dict[bytes, dict[bool, list[tuple[SourceRow, Row, Example]]]] = defaultdict(
            lambda: {True: [], False: []}
        )
        """Good and bad answers of each prompt, which are paired at the end."""
        self.verdicts: dict[bytes, set[bool]] = defaultdict(set)

    def run(self, writer: jsonlines.Writer) -> None:
        """Write a record for each row, or remember why there is none."""
        for source in _rows(self.path, self.options):
            try:
                if source.error:
                    raise SkipRow("", source.error)
                row = Row(source.record, self.options, is_table=self.is_table)
                self._add(writer, source, row, read_example(row, self.markers))
            except SkipRow as skip:
                self._skip(source, skip.column, skip.reason)
            except RecursionError:
                self._skip(source, "", "it is nested too deeply")
            except UnmappedKey as key:
                raise self._refusal(source, key) from None
        for answers in self.marked.values():
            self._pair(writer, answers)

    def _add(self, writer: jsonlines.Writer, source: SourceRow, row: Row, example: Example) -> None:
        keys = row.key_counts()
        purpose = "preference" if example.preferred is not None else "chat"
        self.purpose = self.purpose or purpose
        if example.is_good is not None:
            prompt = _digest(example.messages[:-1])
            if self.purpose == "preference":
                self.marked[prompt][example.is_good].append((source, row, example))
                return
            self.verdicts[prompt].add(example.is_good)
            if not example.is_good:
                raise SkipRow("", NEGATIVE)
        elif self.purpose == "preference" and purpose == "chat":
            raise SkipRow("", f"it has one answer ({example.format}), and no other to compare it with")
        self._write(writer, row, example, keys)

    def _write(
        self, writer: jsonlines.Writer, row: Row, example: Example, keys: tuple[Counter[str], Counter[str]]
    ) -> None:
        messages = self._with_system(example.messages)
        more: dict[str, Any] = {}
        if row.tools is not None:
            more["tools"] = row.tools
        if row.parallel_tool_calls is not None:
            more["parallel_tool_calls"] = row.parallel_tool_calls
        record: dict[str, Any] = {"messages": messages, **more}
        if self.purpose == "preference":
            record = {
                "input": record,
                "preferred_output": [example.preferred],
                "non_preferred_output": [example.rejected],
            }
        elif example.preferred is not None:
            messages.append(example.preferred)
        try:
            writer.write(record)
        except orjson.JSONEncodeError as exc:
            raise SkipRow("", str(exc)) from exc
        self.formats[example.format] += 1
        self.records += 1
        for counts, added in zip((self.used, self.ignored), keys, strict=True):
            for name, number in added.items():
                counts[name if name in counts or len(counts) < MAX_KEY_NAMES else OTHER_KEYS] += number

    def _with_system(self, messages: Messages) -> Messages:
        has_system = bool(messages) and messages[0]["role"] in ("system", "developer")
        if not self.options.system or has_system:
            return list(messages)
        return [{"role": "system", "content": self.options.system}, *messages]

    def _pair(self, writer: jsonlines.Writer, answers: dict[bool, list[tuple[SourceRow, Row, Example]]]) -> None:
        """Write a preference record for each good and bad answer of a prompt; what is left has no partner."""
        good, bad = answers[True], answers[False]
        for (source, row, better), (_, other, worse) in zip(good, bad, strict=False):
            preferred, rejected = (
                {key: value for key, value in example.messages[-1].items() if key != "weight"}
                for example in (better, worse)
            )
            keys = row.key_counts()
            for counts, more in zip(keys, other.key_counts(), strict=True):
                counts.update(more)
            example = Example(better.format, better.messages[:-1], preferred, rejected)
            try:
                self._write(writer, row, example, keys)
            except SkipRow as skip:
                self._skip(source, skip.column, skip.reason)
        for source, *_ in [*good[len(bad) :], *bad[len(good) :]]:
            self._skip(source, "", "no answer to the same prompt has the other label")

    def _skip(self, source: SourceRow, column: str, reason: str) -> None:
        self.skipped_total += 1
        key = re.sub(r"\[\d+\]", "[]", f"column {column}: {reason}" if column else reason)
        self.skipped_reasons[key if len(self.skipped_reasons) < MAX_KEY_NAMES else "other reasons"] += 1
        if len(self.skipped) < MAX_REPORTED_ROWS:
            self.skipped.append(SkippedRow(source.row, source.line, column, reason))

    def _refusal(self, source: SourceRow, key: UnmappedKey) -> DatasetError:
        name = key.path.rsplit(".", 1)[-1].split("[")[0]
        way = f"`--ignore-key {name}` converts the file without it"
        if "reasoning" in key.reason:
            way = "`--reasoning think` writes it before the answer in <think> tags, `--reasoning drop` leaves it out"
        row = SkippedRow(source.row, source.line, "", "")
        return DatasetError(
            f"{self.path.name} was not converted: in {str(row).removesuffix(': ')} {key.path} {key.reason}, but it"
            " changes what is learnt.",
            way,
        )

    def result(self, output: Path) -> ConversionResult:
        """What became of the file."""
        return ConversionResult(
            output=output,
            source_format=next(iter(self.formats), "unknown"),
            formats=dict(self.formats),
            purpose=self.purpose,
            records=self.records,
            skipped=tuple(self.skipped),
            skipped_total=self.skipped_total,
            skipped_reasons=dict(self.skipped_reasons.most_common()),
            keys_used=dict(self.used.most_common()),
            keys_ignored=dict(self.ignored.most_common()),
            stripped=str(self.markers),
            pairs_possible=sum(len(verdicts) == 2 for verdicts in self.verdicts.values()),
        )
