"""Fixes a whole file: never in place, line by line, what needs no fix copied byte for byte."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.check_settings import CheckSettings, check_codes
from ftpipe.dataset.duplicates.fingerprints import hash64
from ftpipe.dataset.fixes.safe import SAFE
from ftpipe.dataset.fixes.unsafe import DROP, UNSAFE
from ftpipe.dataset.formats import shape_of
from ftpipe.dataset.identity import sha256_of
from ftpipe.dataset.json_line import Line
from ftpipe.dataset.reader import BOM, MAX_LINE_BYTES, read_blocks
from ftpipe.dataset.rules import codes
from ftpipe.dataset.sniffer import sniff
from ftpipe.errors import LocalStateError, UsageError


def records_in(text: str) -> list[Any]:
    """The records of a JSON array, of pretty-printed JSON, or of several values on a line; maybe none."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    at = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            return []
        found.append(value)
    if len(found) == 1 and isinstance(found[0], list):
        return found[0]
    return found


_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class FixResult(NamedTuple):
    """What was done."""

    output: Path
    diff: Path
    """Changed lines, old and new, in the manner of ``diff -U0``."""
    manifest: Path
    """Input hash, output hash, and how often each rule's fix was applied."""
    sidecar: Path | None
    """Keys that were moved out of the records (FT110); ``None`` where there were none."""
    counts: dict[str, int]
    """Rule code → places mended."""
    dropped: int
    """Records left out (unsafe fixes only)."""


def fix_file(
    path: Path, output: Path, *, unsafe: bool = False, settings: CheckSettings | None = None, method: str | None = None
) -> FixResult:
    """Write a new file with the fixes applied; the old one stays as it is. Validate the new one afterwards.

    Args:
        path: The dataset.
        output: The new file; beside it lie ``.diff``, ``.manifest.json`` and, for moved keys, ``.extra.jsonl``.
        unsafe: Also apply fixes that drop or change something.
        settings: Rules that are not wanted are not mended either.
        method: As for ``validate``.

    Raises:
        UsageError: The output is the input, or the input is missing.
        LocalStateError: A file cannot be read or written.
    """
    chosen = settings or CheckSettings()
    check_codes((*chosen.select, *chosen.ignore), codes())
    if output.resolve() == path.resolve():
        raise UsageError("The fixed file would overwrite its input.", "Name another file with --output.")
    seen = sniff(path, method)
    job = FixJob(chosen, seen.format, unsafe)
    beside = [output.with_name(output.name + suffix) for suffix in (".diff", ".manifest.json", ".extra.jsonl")]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            out, diff, extra = (stack.enter_context(place.open("wb")) for place in (output, beside[0], beside[2]))
            job.run(path, seen.layout, out, diff, extra)
        moved = beside[2] if beside[2].stat().st_size else None
        if moved is None:
            beside[2].unlink()
        manifest = {
            "schema": "ftpipe.fix/1",
            "input": {"path": str(path), "sha256": sha256_of(path)},
            "output": {"path": str(output), "sha256": sha256_of(output)},
            "unsafe": unsafe,
            "fixes": dict(sorted(job.counts.items())),
            "dropped": job.dropped,
        }
        beside[1].write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise LocalStateError(
            f"{exc.filename or output} cannot be written: {exc.strerror}.", "Check the folder and the disk."
        ) from exc
    return FixResult(output, beside[0], beside[1], moved, dict(sorted(job.counts.items())), job.dropped)


class FixJob:
    """The fixing of one file."""

    def __init__(self, settings: CheckSettings, kind: str, unsafe: bool) -> None:
        table = {**SAFE, **UNSAFE} if unsafe else SAFE
        self.fixers = {code: fixer for code, fixer in sorted(table.items()) if settings.wants(code)}
        self.wants = settings.wants
        self.kind = kind
        self.unsafe = unsafe
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self._seen: set[int] = set()

    def run(self, path: Path, layout: str, out: BinaryIO, diff: BinaryIO, extra: BinaryIO) -> None:
        """Write every line, mended where it needs it, and every change to the diff."""
        for number, raw, is_last in _lines(path, layout, self):
            mended, moved = self.line(number, raw)
            if moved:
                extra.write(orjson.dumps({"line": number, **moved}) + b"\n")
            for piece in mended:
                out.write(piece + b"\n")
            if is_last and self.wants("FT011"):
                self.counts["FT011"] += 1
            if mended != [raw]:
                new = b"".join(b"+" + piece + b"\n" for piece in mended)
                diff.write(b"@@ line %d @@\n-%s\n%s" % (number, raw, new))

    def line(self, number: int, raw: bytes) -> tuple[list[bytes], dict[str, Any]]:
        """The line or lines that stand for one line, and the keys that were moved out of it."""
        body = self._bytes(number, raw)
        if body is None:
            return [], {}
        try:
            records = [orjson.loads(body)]
        except orjson.JSONDecodeError:
            mended = self._broken(number, body)
            if mended is None:
                return [body], {}
            records = mended
        moved: dict[str, Any] = {}
        pieces = [
            piece for record in records if (piece := self._record(record, body, len(records) > 1, moved)) is not None
        ]
        return pieces, moved

    def _bytes(self, number: int, raw: bytes) -> bytes | None:
        """The line with its bytes mended; ``None`` for a blank one that is dropped."""
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

    def _broken(self, number: int, body: bytes) -> list[Any] | None:
        """The records of a line that does not parse; ``None`` where it stays as it is."""
        line = Line(number, 0, body)
        if self.unsafe and line.text is None and self.wants("FT004"):
            try:
                records = [orjson.loads(body.decode("cp1252", "replace").encode())]
            except orjson.JSONDecodeError:
                return None
            self.counts["FT004"] += 1
            return records
        if line.text is not None and line.tolerant_parse.extra_data and self.wants("FT103"):
            records = records_in(line.text)
            if records:
                self.counts["FT103"] += 1
                return records
        if self.unsafe and line.text is not None and line.tolerant_parse.ok and not line.tolerant_parse.duplicates:
            return [line.tolerant_parse.value]
        return None

    def _record(self, record: Any, body: bytes, always: bool, moved: dict[str, Any]) -> bytes | None:  # noqa: ANN401
        if not isinstance(record, dict):
            return dump_like(record, body) if always else body
        shape = shape_of(record)
        kind = shape if shape != "messages" else ("rft" if self.kind == "rft" else "chat")
        new = copy.deepcopy(record)
        done: Counter[str] = Counter()
        for code, fixer in self.fixers.items():
            number = fixer(new, kind)
            if number == DROP:
                self.counts[code] += 1
                self.dropped += 1
                return None
            if number:
                done[code] += number
        if self._is_repeated(new):
            return None
        moved |= {key: value for key, value in record.items() if key not in new}
        self.counts.update(done)
        return dump_like(new, body) if done or always or not _parses(body) else body

    def _is_repeated(self, record: dict[str, Any]) -> bool:
        """FT801, unsafe: True for a record that stood before."""
        if not self.unsafe or not self.wants("FT801"):
            return False
        mark = hash64(canonical_json(record))
        if mark in self._seen:
            self.counts["FT801"] += 1
            self.dropped += 1
            return True
        self._seen.add(mark)
        return False


def _parses(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def dump_like(record: Any, body: bytes) -> bytes:  # noqa: ANN401  # any JSON value
    """The record as JSON in the style of the line it came from: blanks after colons, escapes for what is not ASCII."""
    spaced = b'": ' in body
    escaped = body.isascii() and b"\\u" in body
    separators = (", ", ": ") if spaced else (",", ":")
    return json.dumps(record, ensure_ascii=escaped, separators=separators).encode("utf-8", "replace")


def _lines(path: Path, layout: str, job: FixJob) -> Iterator[tuple[int, bytes, bool]]:
    """(line, bytes, whether it is the last and lacks its newline); one JSON value is given a record at a time."""
    if layout in ("array", "pretty", "utf16"):
        yield from _reflowed(path, layout, job)
        return
    number = 0
    for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
        raws = block.data.split(b"\n")
        if not block.ends_file:
            raws.pop()
        for index, raw in enumerate(raws):
            number += 1
            yield number, raw, block.ends_file and index == len(raws) - 1


def _reflowed(path: Path, layout: str, job: FixJob) -> Iterator[tuple[int, bytes, bool]]:
    data = path.read_bytes()
    try:
        if layout == "utf16":
            if not (job.unsafe and job.wants("FT004")):
                raise LocalStateError(f"{path.name} is UTF-16.", "Add --unsafe-fixes, or save it as UTF-8.")
            text = data.decode("utf-16")
            job.counts["FT004"] += 1
            parts: Iterable[bytes] = (piece.encode() for piece in text.split("\n"))
        else:
            if not job.wants("FT103"):
                raise LocalStateError(f"{path.name} is not JSONL.", "Do not ignore FT103.")
            parts = [json.dumps(record, ensure_ascii=False).encode() for record in records_in(data.decode("utf-8-sig"))]
            job.counts["FT103"] += 1
    except UnicodeError as exc:
        raise LocalStateError(f"{path.name} cannot be decoded.", "Save it as UTF-8.") from exc
    for number, part in enumerate(parts, 1):
        if part.strip():
            yield number, part, False


def quarantine(path: Path, lines: set[int], good: Path, bad: Path) -> tuple[int, int]:
    """Write the lines that are named to one file and all others to another; returns their numbers (good, bad).

    Raises:
        LocalStateError: A file cannot be written.
    """
    kept = moved = number = 0
    try:
        with good.open("wb") as first, bad.open("wb") as second:
            for block in read_blocks(path, max_line_bytes=MAX_LINE_BYTES):
                raws = [b""] if block.too_long else block.data.removesuffix(b"\n").split(b"\n")
                for raw in raws:
                    number += 1
                    aside = number in lines
                    (second if aside else first).write(raw + b"\n")
                    moved, kept = moved + aside, kept + (not aside)
    except OSError as exc:
        raise LocalStateError(
            f"{exc.filename or good} cannot be written: {exc.strerror}.", "Check the folder and the disk."
        ) from exc
    return kept, moved
