"""FT0: the file and its encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftpipe.dataset.formats import LAYOUT_FAULTS, NOT_DATA, OTHER_FORMATS
from ftpipe.dataset.json_line import Line
from ftpipe.dataset.rules.base import RuleGroup, Violation, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics

GROUP = RuleGroup("File and encoding")
rule = GROUP.rule

MEBI = 1024 * 1024
FILE_LIMITS = {
    "openai": 8 * 1024 * MEBI,
    "azure": 8 * 1024 * MEBI,
    "nebius": 5_000_000_000,
    "together": 50_000_000_000,
}
"""Bytes. Source: OpenAI API description createUpload 2026-08-21; Nebius documentation 2026-08-20."""

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SEPARATOR = re.compile(rb"\xe2\x80[\xa8\xa9]|\xc2\x85")


@rule("FT001", "file-changed", "error", "L", "observed", scope="file")
def file_changed(stats: ScanStatistics) -> Iterator[Violation]:
    """The file changed while it was being read.

    Why: The upload could differ from what was checked.
    Fix: Stop the program that writes to the file, then run the command again.
    Source: robustness; a missing file or folder is reported before any rule runs.
    """
    if stats.has_changed:
        yield Violation("", "The file changed while it was being read.")


@rule("FT002", "empty-file", "error", "D", "documented", scope="file")
def empty_file(stats: ScanStatistics) -> Iterator[Violation]:
    """The file contains no records.

    Why: There is nothing to train on, and services require a minimum number of examples.
    Fix: Write one JSON object per line.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if not stats.examples and stats.file.layout == "lines":
        yield Violation("", f"The file has {stats.file.size_bytes:,} bytes but no records.")


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
    """The file name does not end in ``.jsonl``.

    Why: The Files API accepts only .jsonl files for the purpose fine-tune.
    Fix: Rename the file to end in .jsonl.
    Source: OpenAI API description createFile, 2026-08-21.
    """
    if stats.file.suffix.lower() != ".jsonl" and stats.file.layout not in (*OTHER_FORMATS, *NOT_DATA):
        yield Violation("", f"The file extension is '{escape_preview(stats.file.suffix)}', not '.jsonl'.")


@rule("FT004", "not-utf8", "error", "D", "documented", scope="line", fix=("unsafe", "decode it and write it as UTF-8"))
def not_utf8(line: Line) -> Iterator[Violation]:
    """The bytes are not valid UTF-8.

    Why: JSON Lines files are UTF-8. Text in another encoding arrives garbled, or is rejected.
    Fix: Save the file as UTF-8 without a byte order mark: ``ftpipe convert FILE`` does this.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15; Python's json module does not report it (measured).
    """
    if line.bad_byte is not None:
        at = line.bad_byte
        around = line.raw[max(0, at - 20) : at + 20].decode("utf-8", "backslashreplace")
        yield Violation("", f"Byte 0x{line.raw[at]:02X} at column {at + 1} is not UTF-8.", escape_preview(around))


@rule("FT004", "not-utf8", "error", "D", "documented", scope="file")
def file_not_utf8(stats: ScanStatistics) -> Iterator[Violation]:
    """The whole file is in another encoding, or is not a text file.

    Why: JSON Lines files are UTF-8.
    Fix: Save the file as UTF-8 without a byte order mark: ``ftpipe convert FILE`` does this for text.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if stats.file.layout in ("utf16", "binary", "excel", "parquet", "compressed"):
        hint = "Convert it: `ftpipe convert FILE`." if stats.file.layout in OTHER_FORMATS else ""
        yield Violation("", LAYOUT_FAULTS[stats.file.layout], line=1, hint=hint)


@rule(
    "FT005",
    "utf8-bom",
    "error",
    "R",
    "inferred",
    scope="file",
    fix=("safe", "remove the BOM"),
    azure="info",
    nebius="warning",
    local="warning",
)
def utf8_bom(stats: ScanStatistics) -> Iterator[Violation]:
    """The file starts with a UTF-8 byte order mark (BOM).

    Why: Strict JSON parsers reject line 1 because of it. Azure's documentation asks for a BOM, so this is only a
        note there.
    Fix: Save the file as UTF-8 without a BOM.
    Source: matches a server message in openai-python#426; Azure fine-tuning REST page; the sources disagree.
    """
    if stats.file.has_bom:
        yield Violation("", "The file starts with the bytes EF BB BF.", line=1)


@rule("FT006", "carriage-return", "warning", "L", "observed", scope="line", fix=("safe", "end lines with \\n only"))
def carriage_return(line: Line) -> Iterator[Violation]:
    r"""A line ends in CR LF, or a CR character is inside a line.

    Why: Some readers also break lines at CR, so their line numbers differ; a lone CR can join two records into one
        line.
    Fix: End lines with \n only.
    Source: measured with jsonlines 4.0 and str.splitlines, 2026-11-24.
    """
    body = line.raw[:-1] if line.raw.endswith(b"\r") else line.raw
    if b"\r" in body:
        yield Violation("", f"A carriage return is inside the line at column {body.index(13) + 1}.", level="error")
    elif body is not line.raw and body:
        yield Violation("", "The line ends in CR LF.")


@rule("FT007", "blank-line", "warning", "R", "inferred", scope="line", fix=("safe", "remove the line"))
def blank_line(line: Line) -> Iterator[Violation]:
    """A line is empty or contains only whitespace.

    Why: Some loaders treat it as a broken record.
    Fix: Remove the line.
    Source: jsonlines raises an error (measured); reports about servers are second-hand.
    """
    if not line.raw.strip():
        yield Violation("", "The line is blank.")


@rule("FT008", "control-character", "error", "L", "observed", scope="line", fix=("unsafe", "remove the character"))
def control_character(line: Line) -> Iterator[Violation]:
    r"""A line contains a control character, raw or escaped as ``\u0000``.

    Why: Raw control characters are not valid JSON. Many databases and tokenizers truncate or reject NUL.
    Fix: Remove it from the text.
    Source: RFC 8259; parsers measured, 2026-11-24.
    """
    match = _CONTROL.search(line.raw)
    if match:
        yield Violation("", f"Raw control character U+{line.raw[match.start()]:04X} at column {match.start() + 1}.")
    elif b"\\u0000" in line.raw.replace(b"\\\\", b""):
        yield Violation("", r"The text contains \u0000 (NUL).", level="warning")


@rule("FT009", "file-too-large", "error", "D", "documented", scope="file")
def file_too_large(stats: ScanStatistics) -> Iterator[Violation]:
    """The file is larger than the target accepts.

    Why: The upload would be rejected. Files over 512 MB are uploaded in parts, up to 8 GB.
    Fix: Remove or shorten examples, or split the training into two jobs.
    Source: OpenAI API description createFile and createUpload, 2026-08-21; Nebius documentation;
        togethercomputer/skills, data-formats.md, 2026-07.
    """
    limit = FILE_LIMITS.get(stats.file.target)
    if limit and stats.file.size_bytes > limit:
        yield Violation(
            "", f"The file has {stats.file.size_bytes:,} bytes; {stats.file.target} accepts at most {limit:,}."
        )


@rule("FT010", "line-too-long", "error", "L", "observed", scope="line")
def line_too_long(line: Line) -> Iterator[Violation]:
    """A line is longer than ``max_line_bytes`` (16 MiB by default).

    Why: Readers hold several copies of a line in memory. A line this long usually means that a line break is
        missing.
    Fix: Split the record. For base64 images, raise max_line_bytes.
    Source: measured, 2026-11-24.
    """
    if line.record == "too-long":
        yield Violation("", f"The line has {int.from_bytes(line.raw, 'big'):,} bytes.")


@rule("FT011", "no-final-newline", "info", "L", "observed", scope="file", fix=("safe", "add the newline"))
def no_final_newline(stats: ScanStatistics) -> Iterator[Violation]:
    r"""The last line does not end with a newline.

    Why: Appending to the file would join two records into one line.
    Fix: End the file with \n.
    Source: POSIX text files.
    """
    if stats.is_unterminated:
        yield Violation("", "The last line does not end with a newline.")


@rule("FT012", "unicode-line-separator", "info", "L", "observed", scope="line", fix=("safe", "write it as an escape"))
def unicode_line_separator(line: Line) -> Iterator[Violation]:
    r"""A string contains a raw U+2028, U+2029 or U+0085 character.

    Why: It is valid JSON, but Python's splitlines and some editors break the line there.
    Fix: Write it as \u2028, \u2029 or \u0085.
    Source: measured with str.splitlines, 2026-11-24.
    """
    match = _SEPARATOR.search(line.raw)
    if match:
        yield Violation("", f"Raw U+{ord(match.group().decode()):04X} at byte {match.start() + 1}.")
