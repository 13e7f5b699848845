"""Unsafe fixes that need the whole file: which records are removed, and the order of the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ftpipe.atomic_files import rename_durably, temporary_path
from ftpipe.dataset.duplicates.exact import overlap
from ftpipe.dataset.duplicates.near import is_available
from ftpipe.dataset.reader import read_lines
from ftpipe.dataset.scan.analyze import analyze_file
from ftpipe.dataset.scan.context import ScanContext, ScanObserver
from ftpipe.records import Finding

REMOVALS = ("FT701", "FT802")
"""Rules whose records are removed because of a finding in the file itself."""
OVERLAP, SHUFFLE = "FT703", "FT815"
WHOLE_FILE = (*REMOVALS, OVERLAP, SHUFFLE)
SEED = 0
"""Seed of the order of a shuffled file, so that the result can be repeated."""


def lines_to_remove(path: Path, context: ScanContext, training: Path | None) -> dict[int, str]:
    """Line → code of the rule because of which its record is removed.

    Args:
        path: The file.
        context: How it is checked; rules that its settings exclude remove nothing.
        training: The training file, if this is its validation file.
    """
    wants = context.settings.wants
    codes = [code for code in REMOVALS if wants(code) and (code != "FT802" or is_available())]
    if training is not None and wants(OVERLAP):
        codes.append(OVERLAP)
    if not codes:
        return {}
    lines: dict[int, str] = {}

    def collect(finding: Finding) -> None:
        if finding.line is not None:
            lines.setdefault(finding.line, finding.code)

    analysis = analyze_file(path, _only(context, tuple(codes), collect))
    analysis.run_file_rules()
    analysis.replay_findings(collect)
    if training is not None and OVERLAP in codes:
        other = analyze_file(training, _only(context, (OVERLAP,)))
        for line, _, _ in overlap(other.fingerprints, analysis.fingerprints):
            lines.setdefault(line, OVERLAP)
    return lines


def is_sorted_by_label(path: Path, context: ScanContext) -> bool:
    """Whether FT815 reports the file."""
    if not context.settings.wants(SHUFFLE):
        return False
    analysis = analyze_file(path, _only(context, (SHUFFLE,)))
    analysis.run_file_rules()
    return bool(analysis.tally.counts)


def _only(
    context: ScanContext, codes: tuple[str, ...], on_finding: Callable[[Finding], None] | None = None
) -> ScanContext:
    """The same check with some of its rules."""
    settings = replace(context.settings, select=codes, ignore=())
    return replace(context, settings=settings, observer=ScanObserver(on_finding=on_finding))


def shuffle_lines(path: Path) -> None:
    """Write the lines of a file in a random order that is the same each time."""
    offsets: list[tuple[int, int]] = []
    at = 0
    for _, raw in read_lines(path):
        size = len(raw or b"") + 1
        offsets.append((at, size))
        at += size
    random.Random(SEED).shuffle(offsets)  # noqa: S311  # an order, not a secret
    partial = temporary_path(path)
    with path.open("rb") as source, partial.open("xb") as sink:
        for offset, size in offsets:
            source.seek(offset)
            sink.write(source.read(size))
    rename_durably(partial, path)
