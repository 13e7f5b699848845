"""Fixes a file line by line into a new file; lines that need no fix are copied byte for byte."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, NamedTuple

import jsonlines
import orjson

from ftpipe.atomic_files import read_json
from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.check_settings import CheckSettings, check_codes
from ftpipe.dataset.duplicates.fingerprints import hash64
from ftpipe.dataset.encoding import unicode_encoding
from ftpipe.dataset.fixes.safe import SAFE
from ftpipe.dataset.fixes.unsafe import DROP, UNSAFE
from ftpipe.dataset.formats import LAYOUT_FAULTS, OTHER_FORMATS, shape_of
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.dataset.json_line import Line, parse_json_values
from ftpipe.dataset.reader import BOM, MAX_LINE_BYTES, read_blocks, read_lines
from ftpipe.dataset.rules import codes
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import DatasetError, LocalStateError, UsageError
from ftpipe.output_files import check_outputs, open_output

SCHEMA = "ftpipe.fix/1"
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class FixResult(NamedTuple):
    """The files that were written, and the number of fixes."""

    output: Path
    diff: Path
    """Changed lines, old and new, like ``diff -U0``."""
    manifest: Path
    """Hashes of input and output, and the number of fixes per rule."""
    sidecar: Path | None
    """Keys that were moved out of the records (FT110); ``None`` if there were none."""
    counts: dict[str, int]
    """Rule code → number of fixes."""
    dropped: int
    """Removed records (unsafe fixes only)."""


def fix_file(
    path: Path, output: Path, *, unsafe: bool = False, settings: CheckSettings | None = None, method: str | None = None,
    force: bool = False,
) -> FixResult:  # fmt: skip
    """Write a new file with the fixes applied; the old one does not change. Validate the new one afterwards.

    Args:
        path: The dataset.
        output: The new file; ``.diff``, ``.manifest.json`` and, for moved keys, ``.extra.jsonl`` are written beside it.
        unsafe: Also apply fixes that remove or change something.
        settings: Faults of rules that are off are not fixed.
        method: As for ``validate``.
        force: Replace files of these names that no earlier fix has written.

    Raises:
        DatasetError: The file is a table or compressed.
        UsageError: The output is the input, the input is missing, or no earlier fix wrote the files that exist.
        LocalStateError: A file cannot be read or written.
    """
    selected = settings or CheckSettings()
    check_codes((*selected.select, *selected.ignore), codes())
    diff_file, manifest_file, sidecar = (
        output.with_name(output.name + suffix) for suffix in (".diff", ".manifest.json", ".extra.jsonl")
    )
    files = (output, diff_file, sidecar, manifest_file)
    check_outputs([("--output", file) for file in files], inputs=[path], force=True)
    if not force:
        _refuse_foreign_files(files, manifest_file)
    sniffed = sniff(path, method)
    if sniffed.layout in OTHER_FORMATS:
        raise DatasetError(f"{path.name}: {LAYOUT_FAULTS[sniffed.layout]}", f"ftpipe convert {quote(str(path))}")
    fixer = FileFixer(selected, sniffed.format, unsafe)
    try:
        with ExitStack() as stack:
            out, diff, extra = (stack.enter_context(open_output(file, force=True)) for file in files[:3])
            fixer.run(path, sniffed.layout, out, diff, extra)
        has_moved_keys = sidecar.stat().st_size > 0
        if not has_moved_keys:
            sidecar.unlink()
        manifest = {
            "schema": SCHEMA,
            "input": {"path": str(path), "sha256": sha256_of_dataset(path)},
            "output": {"path": str(output), "sha256": sha256_of_dataset(output)},
            "unsafe": unsafe,
            "fixes": dict(sorted(fixer.counts.items())),
            "dropped": fixer.dropped,
        }
        manifest_file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise LocalStateError(
            f"{exc.filename or output} cannot be written: {exc.strerror}.", "Check the folder and the disk."
        ) from exc
    counts = dict(sorted(fixer.counts.items()))
    return FixResult(output, diff_file, manifest_file, sidecar if has_moved_keys else None, counts, fixer.dropped)


def _refuse_foreign_files(files: tuple[Path, ...], manifest_file: Path) -> None:
    """Refuse to replace or delete files that no manifest says this program has written."""
    manifest = read_json(manifest_file) or {}
    output = manifest.get("output") if manifest.get("schema") == SCHEMA else None
    if isinstance(output, dict) and (not files[0].exists() or sha256_of_dataset(files[0]) == output.get("sha256")):
        return
    for path in files:
        if path.exists() or path.is_symlink():
            raise UsageError(
                f"{path} exists, and ftpipe has not written it.",
                "Name another file with --output, move it away, or add --force to replace it.",
            )


class FileFixer:
    """Applies the fixes to the lines of one file."""

    def __init__(self, settings: CheckSettings, kind: str, unsafe: bool) -> None:
        table = {**SAFE, **UNSAFE} if unsafe else SAFE
        self.fixers = {code: fixer for code, fixer in sorted(table.items()) if settings.wants(code)}
        self.wants = settings.wants
        self.kind = kind
        self.unsafe = unsafe
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self._fingerprints: set[int] = set()

    def run(self, path: Path, layout: str, out: BinaryIO, diff: BinaryIO, extra: BinaryIO) -> None:
        """Write every line with its fixes, and every change to the diff."""
        sidecar = jsonlines.Writer(extra, dumps=orjson.dumps)
        for number, raw, is_last in _lines(path, layout, self):
            fixed, moved = self.line(number, raw)
            if moved:
                sidecar.write({"line": number, **moved})
            for new_line in fixed:
                out.write(new_line + b"\n")
            if is_last and self.wants("FT011"):
                self.counts["FT011"] += 1
            if fixed != [raw]:
                added = b"".join(b"+" + new_line + b"\n" for new_line in fixed)
                diff.write(b"@@ line %d @@\n-%s\n%s" % (number, raw, added))

    def line(self, number: int, raw: bytes) -> tuple[list[bytes], dict[str, Any]]:
        """The lines that replace one line, and the keys that were moved out of it."""
        body = self._bytes(number, raw)
        if body is None:
            return [], {}
        try:
            records = [orjson.loads(body)]
        except orjson.JSONDecodeError:
            repaired = self._repair(number, body)
            if repaired is None:
                return [body], {}
            records = repaired
        moved: dict[str, Any] = {}
        lines = [
            line for record in records if (line := self._record(record, body, len(records) > 1, moved)) is not None
        ]
        return lines, moved

    def _bytes(self, number: int, raw: bytes) -> bytes | None:
        """The line with fixed bytes; ``None`` for a blank one, which is removed."""
        body = raw
        if number == 1 and body.startswith(BOM) and self.wants("FT005"):
            body = self._count("FT005", body[len(BOM) :])
        if body.endswith(b"\r") and self.wants("FT006"):
            body = self._count("FT006", body.rstrip(b"\r"))
        if not body.strip() and self.wants("FT007"):
            self.counts["FT007"] += 1
            return None
        if self.wants("FT012"):
            for character, escape in _SEPARATORS:
                if character in body:
                    body = self._count("FT012", body.replace(character, escape))
        return body

    def _count(self, code: str, value: bytes) -> bytes:
        self.counts[code] += 1
        return value

    def _repair(self, number: int, body: bytes) -> list[Any] | None:
        """The records of a line that is not valid JSON; ``None`` if it cannot be repaired."""
        line = Line(number, 0, body)
        if self.unsafe and line.text is None and self.wants("FT004"):
            try:
                records = [orjson.loads(body.decode("cp1252", "replace").encode())]
            except orjson.JSONDecodeError:
                return None
            self.counts["FT004"] += 1
            return records
        if line.text is not None and line.tolerant_parse.extra_data and self.wants("FT103"):
            records = parse_json_values(line.text)
            if records:
                self.counts["FT103"] += 1
                return records
        if self.unsafe and line.text is not None and line.tolerant_parse.ok and not line.tolerant_parse.duplicates:
            return [line.tolerant_parse.value]
        return None

    def _record(self, record: Any, body: bytes, always: bool, moved: dict[str, Any]) -> bytes | None:  # noqa: ANN401
        if not isinstance(record, dict):
            return dump_in_style_of(record, body) if always else body
        shape = shape_of(record)
        kind = shape if shape != "messages" else ("rft" if self.kind == "rft" else "chat")
        new = copy.deepcopy(record)
        fixes: Counter[str] = Counter()
        for code, fixer in self.fixers.items():
            number = fixer(new, kind)
            if number == DROP:
                self.counts[code] += 1
                self.dropped += 1
                return None
            if number:
                fixes[code] += number
        if self._is_repeated(new):
            return None
        moved |= {key: value for key, value in record.items() if key not in new}
        self.counts.update(fixes)
        return dump_in_style_of(new, body) if fixes or always or not _parses(body) else body

    def _is_repeated(self, record: dict[str, Any]) -> bool:
        """FT801, unsafe: True for a record that appeared before."""
        if not self.unsafe or not self.wants("FT801"):
            return False
        fingerprint = hash64(canonical_json(record))
        if fingerprint in self._fingerprints:
            self.counts["FT801"] += 1
            self.dropped += 1
            return True
        self._fingerprints.add(fingerprint)
        return False


def _parses(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def dump_in_style_of(record: Any, body: bytes) -> bytes:  # noqa: ANN401  # any JSON value
    """The record as JSON in the style of its line: spaces after colons, and escapes for non-ASCII characters."""
    has_spaces = b'": ' in body
    is_escaped = body.isascii() and b"\\u" in body
    separators = (", ", ": ") if has_spaces else (",", ":")
    return json.dumps(record, ensure_ascii=is_escaped, separators=separators).encode("utf-8", "replace")


def _lines(path: Path, layout: str, fixer: FileFixer) -> Iterator[tuple[int, bytes, bool]]:
    """(line, bytes, whether it is the last line without a newline); one JSON value is split into its records."""
    if layout in ("array", "pretty", "utf16"):
        yield from _reformat(path, layout, fixer)
        return
    number = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        raws = block.data.split(b"\n")
        if not block.ends_file:
            raws.pop()
        for index, raw in enumerate(raws):
            number += 1
            yield number, raw, block.ends_file and index == len(raws) - 1


def _reformat(path: Path, layout: str, fixer: FileFixer) -> Iterator[tuple[int, bytes, bool]]:
    data = path.read_bytes()
    try:
        if layout == "utf16":
            if not (fixer.unsafe and fixer.wants("FT004")):
                raise LocalStateError(f"{path.name} is UTF-16.", "Add --unsafe-fixes, or save it as UTF-8.")
            text = data.decode(unicode_encoding(data) or "utf-16").removeprefix("\ufeff")
            fixer.counts["FT004"] += 1
            parts: Iterable[bytes] = (line.encode() for line in text.split("\n"))
        else:
            if not fixer.wants("FT103"):
                raise LocalStateError(f"{path.name} is not JSONL.", "Do not ignore FT103.")
            parts = [
                json.dumps(record, ensure_ascii=False).encode()
                for record in parse_json_values(data.decode("utf-8-sig"))
            ]
            fixer.counts["FT103"] += 1
    except UnicodeError as exc:
        raise LocalStateError(f"{path.name} cannot be decoded.", "Save it as UTF-8.") from exc
    for number, part in enumerate(parts, 1):
        if part.strip():
            yield number, part, False


def quarantine(path: Path, lines: set[int], good: Path, bad: Path, *, force: bool = False) -> tuple[int, int]:
    """Write the given lines to ``bad`` and all others to ``good``; returns the numbers of lines (good, bad).

    Raises:
        UsageError: One of the files exists, and ``force`` is not set, or it is the input.
        LocalStateError: A file cannot be written.
    """
    good_count = bad_count = 0
    check_outputs([("--output", good), ("--quarantine", bad)], inputs=[path], force=force)
    with open_output(good, force=force) as good_file, open_output(bad, force=force, flag="--quarantine") as bad_file:
        for number, raw in read_lines(path):
            is_bad = number in lines
            (bad_file if is_bad else good_file).write((raw or b"") + b"\n")
            bad_count, good_count = bad_count + is_bad, good_count + (not is_bad)
    return good_count, bad_count
