"""Fixes a file line by line into a new file; lines that need no fix are copied byte for byte."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, NamedTuple

import jsonlines
import orjson

from ftpipe.atomic_files import read_json, write_json
from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.check_settings import CheckSettings, check_codes
from ftpipe.dataset.duplicates.fingerprints import hash64
from ftpipe.dataset.encoding import unicode_encoding
from ftpipe.dataset.fixes.safe import SAFE
from ftpipe.dataset.fixes.unsafe import DROP, LOSSLESS, UNSAFE, unsafe_fixers
from ftpipe.dataset.fixes.whole_file import SHUFFLE, is_sorted_by_label, lines_to_remove, shuffle_lines
from ftpipe.dataset.formats import LAYOUT_FAULTS, NOT_DATA, OTHER_FORMATS, shape_of
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.dataset.json_line import Json, Line, split_json_values
from ftpipe.dataset.reader import BOM, MAX_LINE_BYTES, read_blocks, read_lines
from ftpipe.dataset.rules import codes
from ftpipe.dataset.rules.base import key_path
from ftpipe.dataset.scan.context import ScanContext
from ftpipe.dataset.scan.scanner import MAX_FAILED_SEARCHES, MAX_PRETTY_LINES
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import DatasetError, LocalStateError, UsageError
from ftpipe.output_files import check_outputs, open_output

SCHEMA = "ftpipe.fix/1"
_LONG_NUMBER = re.compile(rb"\d{16}")
"""What only exact integers can represent."""
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class FixResult(NamedTuple):
    """The files that were written, and the number of fixes."""

    output: Path
    diff: Path
    """Changed lines, old and new, like ``diff -U0``."""
    manifest: Path
    """Hashes of input and output, and the number of fixes per rule."""
    sidecar: Path | None
    """What unsafe fixes removed: keys, messages, records and changed texts, each with line, rule and path; ``None`` if
    nothing was. Redacted secrets and personal data are not among it."""
    counts: dict[str, int]
    """Rule code → number of fixes."""
    dropped: int
    """Removed records (unsafe fixes only)."""
    removed: int
    """Entries of the sidecar."""


def fix_file(
    path: Path,
    output: Path,
    *,
    unsafe: bool = False,
    settings: CheckSettings | None = None,
    method: str | None = None,
    force: bool = False,
    target: str = "openai",
    model: str = "",
    max_length: object = None,
    training: Path | None = None,
) -> FixResult:
    """Write a new file with the fixes applied; the old one does not change. Validate the new one afterwards.

    Args:
        path: The dataset.
        output: The new file. Beside it are written ``.diff``, ``.manifest.json`` and, if something was removed,
            ``.removed.jsonl``.
        unsafe: Also apply fixes that remove or change something.
        settings: Faults of rules that are off are not fixed.
        method: As for ``validate``.
        force: Replace files of these names that no earlier fix has written.
        target: As for ``validate``; decides which records are too long.
        model: As ``target``.
        max_length: As ``target``.
        training: The training file if ``path`` is its validation file, which must not share records with it.

    Raises:
        DatasetError: The file is a table or compressed, or cannot be decoded.
        UsageError: The output is the input, the input is missing, or no earlier fix wrote the files that exist.
        LocalStateError: A file cannot be read or written.
    """
    selected = settings or CheckSettings()
    check_codes((*selected.select, *selected.ignore), codes())
    diff_file, manifest_file, sidecar = (
        output.with_name(output.name + suffix) for suffix in (".diff", ".manifest.json", ".removed.jsonl")
    )
    files = (output, diff_file, sidecar, manifest_file)
    check_outputs([("--output", file) for file in files], inputs=[path], force=True)
    if not force:
        _refuse_foreign_files(files, manifest_file)
    sniffed = sniff(path, method)
    if sniffed.layout in NOT_DATA:
        raise DatasetError(f"{path.name}: {LAYOUT_FAULTS[sniffed.layout]}", "Download it again.")
    if sniffed.layout in OTHER_FORMATS:
        raise DatasetError(f"{path.name}: {LAYOUT_FAULTS[sniffed.layout]}", f"ftpipe convert {quote(str(path))}")
    context = ScanContext(target, method, model, max_length, selected)
    fixer = FileFixer(selected, sniffed.format, unsafe, target)
    if unsafe:
        fixer.to_remove = lines_to_remove(path, context, training)
    return _write(fixer, path, files, sniffed.layout, context)


def _write(
    fixer: FileFixer, path: Path, files: tuple[Path, Path, Path, Path], layout: str, context: ScanContext
) -> FixResult:
    """Write the fixed file and those beside it."""
    output, diff_file, sidecar, manifest_file = files
    try:
        with ExitStack() as stack:
            out, diff, removed = (stack.enter_context(open_output(file, force=True)) for file in files[:3])
            fixer.run(path, layout, out, diff, removed)
        if not fixer.removed:
            sidecar.unlink()
        if path.suffix.lower() != ".jsonl" and output.suffix == ".jsonl" and fixer.wants("FT003"):
            fixer.counts["FT003"] += 1
        if fixer.unsafe and is_sorted_by_label(output, context):
            shuffle_lines(output)
            fixer.counts[SHUFFLE] += 1
        write_json(manifest_file, _manifest(path, output, fixer), indent=2)
    except OSError as exc:
        raise LocalStateError(
            f"{exc.filename or output} cannot be written: {exc.strerror}.", "Check the folder and the disk."
        ) from exc
    counts = dict(sorted(fixer.counts.items()))
    return FixResult(
        output, diff_file, manifest_file, sidecar if fixer.removed else None, counts, fixer.dropped, fixer.removed
    )


def _manifest(path: Path, output: Path, fixer: FileFixer) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "input": {"path": str(path), "sha256": sha256_of_dataset(path)},
        "output": {"path": str(output), "sha256": sha256_of_dataset(output)},
        "unsafe": fixer.unsafe,
        "fixes": dict(sorted(fixer.counts.items())),
        "dropped": fixer.dropped,
        "removed": fixer.removed,
    }


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

    def __init__(self, settings: CheckSettings, kind: str, unsafe: bool, target: str = "openai") -> None:
        table = {**SAFE, **unsafe_fixers(target)} if unsafe else SAFE
        self.fixers = {code: fixer for code, fixer in sorted(table.items()) if settings.wants(code)}
        self.wants = settings.wants
        self.kind = kind
        self.unsafe = unsafe
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self.removed = 0
        self.to_remove: dict[int, str] = {}
        """Line → code of the rule because of which its record is removed."""
        self._removed: list[dict[str, Any]] = []
        self._fingerprints: set[int] = set()

    def run(self, path: Path, layout: str, out: BinaryIO, diff: BinaryIO, removed: BinaryIO) -> None:
        """Write every line with its fixes, every change to the diff, and what was removed to the sidecar."""
        # orjson refuses half surrogate pairs, which FT106 replaces.
        sidecar = jsonlines.Writer(removed, dumps=lambda value: json.dumps(value).encode("ascii"))
        lines = _lines(path, layout, self)
        for number, raw, is_last in join_pretty_records(lines) if self.wants("FT103") else lines:
            fixed = self.line(number, raw)
            self.removed += len(self._removed)
            for entry in self._removed:
                sidecar.write({"line": number, **entry})
            self._removed.clear()
            for new_line in fixed:
                out.write(new_line + b"\n")
            if is_last and self.wants("FT011"):
                self.counts["FT011"] += 1
            if fixed != [raw]:
                added = b"".join(b"+" + new_line + b"\n" for new_line in fixed)
                diff.write(b"@@ line %d @@\n-%s\n%s" % (number, raw, added))

    def line(self, number: int, raw: bytes) -> list[bytes]:
        """The lines that replace one line."""
        body = self._bytes(number, raw)
        if body is None:
            return []
        if b"\n" in body:
            body = self._count("FT103", split_json_values(body.decode())[0].encode())
        try:
            records = [(_load(body), body)]
        except orjson.JSONDecodeError:
            repaired = self._repair(number, body)
            if repaired is None:
                return [body]
            records = repaired
        if code := self.to_remove.get(number):
            for record, _ in records:
                self._drop(code, record)
            return []
        return [line for record, one in records if (line := self._record(record, one)) is not None]

    def _drop(self, code: str, record: Json) -> None:
        """Count a record that is removed, and keep it for the sidecar."""
        self.counts[code] += 1
        self.dropped += 1
        self._removed.append({"rule": code, "path": "", "value": record})

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

    def _repair(self, number: int, body: bytes) -> list[tuple[Json, bytes]] | None:
        """Records and bytes that replace a line that is not valid JSON; ``None`` if it cannot be repaired."""
        line = Line(number, 0, body)
        if self.unsafe and line.text is None and self.wants("FT004"):
            decoded = body.decode("cp1252", "replace").encode()
            try:
                record = _load(decoded)
            except orjson.JSONDecodeError:
                return None
            self.counts["FT004"] += 1
            return [(record, decoded)]
        if line.text is not None and line.tolerant_parse.extra_data and self.wants("FT103"):
            parts = [part.encode() for part in split_json_values(line.text)]
            if parts:
                self.counts["FT103"] += 1
                return [(Line(number, 0, part).tolerant_parse.value, part) for part in parts]
        if self.unsafe and line.text is not None:
            parse = line.tolerant_parse
            if parse.ok and not parse.duplicates and not parse.constants:
                return [(parse.value, body)]
        return None

    def _record(self, record: Json, body: bytes) -> bytes | None:
        """The line with the fixed record; ``None`` if the record is removed."""
        if not isinstance(record, dict):
            return body
        shape = shape_of(record)
        kind = shape if shape != "messages" else ("rft" if self.kind == "rft" else "chat")
        old, new = record, copy.deepcopy(record)
        fixes: Counter[str] = Counter()
        removed: list[dict[str, Any]] = []
        for code, fixer in self.fixers.items():
            number = fixer(new, kind)
            if number == DROP:
                self._drop(code, record)
                return None
            if number:
                fixes[code] += number
                if code in UNSAFE and code not in LOSSLESS:
                    removed += [{"rule": code, "path": at, "value": value} for at, value in removed_values(old, new)]
                    old = copy.deepcopy(new)
        if self._is_repeated(new):
            self._drop("FT801", record)
            return None
        if not fixes and _parses(body):
            return body
        parse = Line(0, 0, body).tolerant_parse
        if parse.duplicates or parse.constants:
            return body  # rewriting it would lose values that JSON parsers do not keep
        self.counts.update(fixes)
        self._removed += removed
        return dump_in_style_of(new, body)

    def _is_repeated(self, record: dict[str, Any]) -> bool:
        """FT801, unsafe: True for a record that appeared before."""
        if not self.unsafe or not self.wants("FT801"):
            return False
        fingerprint = hash64(canonical_json(record))
        is_repeated = fingerprint in self._fingerprints
        self._fingerprints.add(fingerprint)
        return is_repeated


NumberedLine = tuple[int, bytes, bool]
"""Number, bytes, and whether it is the last line and has no newline."""


def join_pretty_records(lines: Iterator[NumberedLine]) -> Iterator[NumberedLine]:
    """The lines, with those of a record that spans several of them as one, under the number of the first."""
    waiting: deque[NumberedLine] = deque()
    failed = 0
    while line := waiting.popleft() if waiting else next(lines, None):
        taken, joined = [line], b""
        start = line[1].strip()
        if start[:1] == b"{" and start[-1:] in b"{[," and failed < MAX_FAILED_SEARCHES and not _parses(start):
            while not joined and len(taken) < MAX_PRETTY_LINES:
                following = waiting.popleft() if waiting else next(lines, None)
                if following is None:
                    break
                taken.append(following)
                if following[1].rstrip().endswith(b"}"):
                    whole = b"\n".join(raw for _, raw, _ in taken)
                    joined = whole if _parses(whole) else b""
            failed += not joined
        if joined:
            yield line[0], joined, taken[-1][2]
        else:
            waiting.extendleft(reversed(taken[1:]))
            yield line


def removed_values(old: Json, new: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Path and old value of everything that a fix took out of a record or replaced by something else."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            at = key_path(path, key)
            if key in new:
                yield from removed_values(value, new[key], at)
            else:
                yield at, value
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (value, other) in enumerate(zip(old, new, strict=True)):
            yield from removed_values(value, other, f"{path}[{index}]")
    elif isinstance(old, list) and isinstance(new, list):
        rest = list(new)
        for index, value in enumerate(old):
            if value in rest:
                rest.remove(value)
            else:
                yield f"{path}[{index}]", value
    elif old != new or type(old) is not type(new):
        yield path, old


def _load(body: bytes) -> Json:
    """A JSON value, with integers of any size.

    Raises:
        orjson.JSONDecodeError: It is not JSON.
    """
    value = orjson.loads(body)
    return json.loads(body) if _LONG_NUMBER.search(body) else value


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


def _lines(path: Path, layout: str, fixer: FileFixer) -> Iterator[NumberedLine]:
    """The lines of a file; one JSON value is split into its records."""
    if layout in ("array", "pretty", "utf16"):
        yield from _reformat(path, layout, fixer)
        return
    number = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        if block.too_long:
            size = f"{MAX_LINE_BYTES // 2**20:,} MiB"
            raise LocalStateError(
                f"Line {number + 1} of {path.name} is longer than {size}, so it cannot be copied.", "Remove the line."
            )
        raws = block.data.split(b"\n")
        if not block.ends_file:
            raws.pop()
        for index, raw in enumerate(raws):
            number += 1
            yield number, raw, block.ends_file and index == len(raws) - 1


def _reformat(path: Path, layout: str, fixer: FileFixer) -> Iterator[NumberedLine]:
    data = path.read_bytes()
    try:
        if layout == "utf16":
            if not (fixer.unsafe and fixer.wants("FT004")):
                raise DatasetError(f"{path.name}: {LAYOUT_FAULTS['utf16']}", f"ftpipe convert {quote(str(path))}")
            text = data.decode(unicode_encoding(data) or "utf-16").removeprefix("\ufeff")
            fixer.counts["FT004"] += 1
            parts: Iterable[str] = text.split("\n")
        else:
            if not fixer.wants("FT103"):
                raise DatasetError(f"{path.name} is not JSONL.", "Do not ignore FT103.")
            parts = split_json_values(data.decode("utf-8-sig"))
            fixer.counts["FT103"] += 1
    except UnicodeError as exc:
        raise DatasetError(f"{path.name} cannot be decoded: {exc}.", f"ftpipe convert {quote(str(path))}") from exc
    for number, part in enumerate(parts, 1):
        if part.strip():
            yield number, part.encode(), False


def quarantine(path: Path, lines: set[int], good: Path, bad: Path, *, force: bool = False) -> tuple[int, int]:
    """Write the given lines to ``bad`` and all others to ``good``; returns their numbers (good, bad).

    Blank lines are not counted.

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
            is_blank = not is_bad and not (raw or b"").strip()
            bad_count, good_count = bad_count + is_bad, good_count + (not is_bad and not is_blank)
    return good_count, bad_count
