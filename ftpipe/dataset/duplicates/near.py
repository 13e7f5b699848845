"""Near duplicates: MinHash over triples of words, with rensa if it is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ftpipe.dataset.reader import iter_valid_lines
from ftpipe.errors import MissingExtraError

PERMUTATIONS, BANDS = 128, 16
SIMILARITY_THRESHOLD = 0.9
TEXT_CHARACTERS = 4_000
AUTO_BYTES = 8 * 1024 * 1024
MIN_WORDS = 12
NOT_CHECKED = "near duplicates: `pip install 'ftpipe[fast]'` adds this check and speeds up the others"
_WORD = re.compile(r"\w+")
_STRING = re.compile(rb'"(?:role|name|type|id)"\s*:\s*"[^"]*"')


def is_available() -> bool:
    """True if the library is installed."""
    return find_spec("rensa") is not None


def should_check_near_duplicates(requested: bool | None, size: int) -> bool:
    """Whether to look for near duplicates: as requested, otherwise if it is possible and quick.

    Raises:
        MissingExtraError: It was requested, and the library is not installed.
    """
    if requested and not is_available():
        raise MissingExtraError("Near duplicates need the package rensa.", "pip install 'ftpipe[fast]'")
    return bool(requested) if requested is not None else is_available() and size <= AUTO_BYTES


def lacks_package(requested: bool | None, size: int) -> bool:
    """True if near duplicates would be looked for if the library were installed."""
    return requested is None and size <= AUTO_BYTES and not is_available()


def shingles(raw: bytes) -> list[str]:
    """Triples of the words of a line, without the keys that every record has."""
    words = _WORD.findall(
        _STRING.sub(b"", raw[: 2 * TEXT_CHARACTERS]).decode("utf-8", "replace")[:TEXT_CHARACTERS].lower()
    )
    return [" ".join(words[i : i + 3]) for i in range(len(words) - 2)] if len(words) >= MIN_WORDS else []


def near_duplicates(*paths: Path) -> Iterator[tuple[int, int, int, float]]:
    """(index of the file, line, line of the earlier record, similarity from 0 to 1) of every near duplicate.

    With two files, only records of the second that are nearly one of the first are yielded. Exact copies are left out.
    """
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=SIMILARITY_THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    earlier_records: list[tuple[int, object, int]] = []
    for file, path in enumerate(paths):
        for number, raw, _ in iter_valid_lines(path):
            words = shingles(raw)
            if not words:
                continue
            sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
            sketch.update(words)
            best, best_line = 0.0, 0
            for key in index.query(sketch)[:20]:
                line, earlier, raw_hash = earlier_records[key]
                similarity = sketch.jaccard(earlier)
                if similarity > best and raw_hash != hash(raw):
                    best, best_line = similarity, line
            if best >= SIMILARITY_THRESHOLD and (file or len(paths) == 1):
                yield file, number, best_line, best
            if not file:
                index.insert(len(earlier_records), sketch)
                earlier_records.append((number, sketch, hash(raw)))
