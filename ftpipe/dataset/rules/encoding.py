"""FT0: the file and its encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftpipe.dataset.json_line import Line
from ftpipe.dataset.rules.base import RuleGroup, Violation, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics

FAMILY = RuleGroup("File and encoding")
rule = FAMILY.rule

MEBI = 1024 * 1024
FILE_LIMITS = {"openai": 8 * 1024 * MEBI, "azure": 8 * 1024 * MEBI, "nebius": 5_000_000_000}
"""Bytes. Source: OpenAI API description createUpload 2026-08-21; Nebius documentation 2026-08-20."""

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SEPARATOR = re.compile(rb"\xe2\x80[\xa8\xa9]|\xc2\x85")


@rule("FT001", "file-unreadable", "error", "L", "observed", scope="file")
def file_unreadable(stats: ScanStatistics) -> Iterator[Violation]:
    """The file cannot be read, or it changed while it was read.

    Why: What was checked would not be what is uploaded.
    Fix: Close the program that writes it, check path and permissions, and run again.
    Source: robustness; a missing file or folder is refused before any rule runs.
    """
    if stats.has_changed:
        yield Violation("", "The file changed while it was being read.")


@rule("FT002", "empty-file", "error", "D", "documented", scope="file")
def empty_file(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has no record.

    Why: There is nothing to train on, and services ask for a minimum of examples.
    Fix: Write one JSON object per line.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if not stats.examples and stats.file.layout == "lines":
        yield Violation("", f"The file has {stats.file.bytes:,} bytes and no record.")


@rule(
    "FT003",
    "wrong-extension",
    "error",
    "D",
    "documented",
    scope="file",
    fix=("safe", "upload under a .jsonl name"),
    local="warning",
)
def wrong_extension(stats: ScanStatistics) -> Iterator[Violation]:
    """The file's name does not end in ``.jsonl``.

    Why: The Files API takes only .jsonl for the purpose fine-tune.
    Fix: Rename the file to end in .jsonl.
    Source: OpenAI API description createFile, 2026-08-21.
    """
    if stats.file.suffix.lower() != ".jsonl":
        yield Violation("", f"The name ends in {escape_preview(stats.file.suffix) or 'nothing'} and not in .jsonl.")


@rule("FT004", "not-utf8", "error", "D", "documented", scope="line", fix=("unsafe", "decode and write as UTF-8"))
def not_utf8(line: Line) -> Iterator[Violation]:
    """The bytes are not valid UTF-8.

    Why: JSON lines are UTF-8; other encodings reach the service as broken text or not at all.
    Fix: Save the file as UTF-8 without a byte order mark.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15; Python's json hides it (measured).
    """
    if line.bad_byte is not None:
        at = line.bad_byte
        around = line.raw[max(0, at - 20) : at + 20].decode("utf-8", "backslashreplace")
        yield Violation("", f"Byte 0x{line.raw[at]:02X} at column {at + 1} is not UTF-8.", escape_preview(around))


@rule("FT004", "not-utf8", "error", "D", "documented", scope="file")
def not_utf8_at_all(stats: ScanStatistics) -> Iterator[Violation]:
    """The whole file is in another encoding, or is no text.

    Why: JSON lines are UTF-8.
    Fix: Save the file as UTF-8 without a byte order mark.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if stats.file.layout == "utf16":
        yield Violation("", "The file is UTF-16 or UTF-32.", line=1)
    elif stats.file.layout == "binary":
        yield Violation("", "The file is binary: it holds NUL bytes and is not UTF-8.", line=1)


@rule(
    "FT005",
    "utf8-bom",
    "error",
    "R",
    "inferred",
    scope="file",
    fix=("safe", "drop the mark"),
    azure="info",
    nebius="warning",
    local="warning",
)
def utf8_bom(stats: ScanStatistics) -> Iterator[Violation]:
    """The file begins with a UTF-8 byte order mark.

    Why: Strict JSON parsers refuse line 1 because of it. Azure's page asks for the mark, so it is only a note there.
    Fix: Save the file as UTF-8 without BOM.
    Source: fits a server text in openai-python#426; Azure fine-tuning REST page; sources conflict.
    """
    if stats.file.has_bom:
        yield Violation("", "The file begins with the bytes EF BB BF.", line=1)


@rule("FT006", "carriage-return", "warning", "L", "observed", scope="line", fix=("safe", "write \\n only"))
def carriage_return(line: Line) -> Iterator[Violation]:
    r"""A line ends in CR LF, or a lone CR stands between records.

    Why: Some readers split at CR and then count other lines than you do; a lone CR glues two records into one line.
    Fix: Write line ends as \n only.
    Source: measured with jsonlines 4.0 and str.splitlines, 2026-11-24.
    """
    body = line.raw[:-1] if line.raw.endswith(b"\r") else line.raw
    if b"\r" in body:
        yield Violation("", f"A carriage return stands inside the line at column {body.index(13) + 1}.", level="error")
    elif body is not line.raw and body:
        yield Violation("", "The line ends in CR LF.")


@rule("FT007", "blank-line", "warning", "R", "inferred", scope="line", fix=("safe", "drop the line"))
def blank_line(line: Line) -> Iterator[Violation]:
    """A line is empty or holds only blanks.

    Why: Some loaders take it for a broken record.
    Fix: Remove the line.
    Source: jsonlines raises on it (measured); server reports are second-hand.
    """
    if not line.raw.strip():
        yield Violation("", "The line is blank.")


@rule("FT008", "control-char", "error", "L", "observed", scope="line", fix=("unsafe", "remove the character"))
def control_char(line: Line) -> Iterator[Violation]:
    r"""A control character stands in the line, raw or escaped as ``\u0000``.

    Why: Raw control characters are not JSON; NUL is cut or refused by many stores and tokenizers.
    Fix: Remove it from the text.
    Source: RFC 8259; parsers measured, 2026-11-24.
    """
    found = _CONTROL.search(line.raw)
    if found:
        yield Violation("", f"Raw control character U+{line.raw[found.start()]:04X} at column {found.start() + 1}.")
    elif b"\\u0000" in line.raw.replace(b"\\\\", b""):
        yield Violation("", r"The text holds \u0000 (NUL).", level="warning")


@rule("FT009", "file-too-large", "error", "D", "documented", scope="file")
def file_too_large(stats: ScanStatistics) -> Iterator[Violation]:
    """The file is larger than the target takes.

    Why: The upload would be refused. Files over 512 MB are sent in parts, up to 8 GB.
    Fix: Drop or shorten examples, or split the training in two jobs.
    Source: OpenAI API description createFile and createUpload, 2026-08-21; Nebius documentation.
    """
    limit = FILE_LIMITS.get(stats.file.target)
    if limit and stats.file.bytes > limit:
        yield Violation("", f"The file has {stats.file.bytes:,} bytes; {stats.file.target} takes {limit:,}.")


@rule("FT010", "line-too-long", "error", "L", "observed", scope="line")
def line_too_long(line: Line) -> Iterator[Violation]:
    """A line is longer than ``max_line_bytes`` (16 MiB).

    Why: Readers hold a line in memory several times over; such a line is nearly always a lost line break.
    Fix: Split the record, or raise max_line_bytes for base64 images.
    Source: measured, 2026-11-24.
    """
    if line.record == "too-long":
        yield Violation("", f"The line has {int.from_bytes(line.raw, 'big'):,} bytes.")


@rule("FT011", "no-final-newline", "info", "L", "observed", scope="file", fix=("safe", "end the last line"))
def no_final_newline(stats: ScanStatistics) -> Iterator[Violation]:
    r"""The last line does not end in a newline.

    Why: Appending to the file would glue two records together.
    Fix: End the file with \n.
    Source: POSIX text files.
    """
    if stats.is_unterminated:
        yield Violation("", "The last line has no newline at its end.")


@rule("FT012", "unicode-separator", "info", "L", "observed", scope="line", fix=("safe", "write it as an escape"))
def unicode_separator(line: Line) -> Iterator[Violation]:
    r"""A raw U+2028, U+2029 or U+0085 stands in a string.

    Why: Legal JSON, but Python's splitlines and some editors break the line there.
    Fix: Write it as \u2028, \u2029 or \u0085.
    Source: measured with str.splitlines, 2026-11-24.
    """
    found = _SEPARATOR.search(line.raw)
    if found:
        yield Violation("", f"Raw U+{ord(found.group().decode()):04X} at byte {found.start() + 1}.")
