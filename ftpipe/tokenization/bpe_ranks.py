"""The rank tables of tiktoken's encodings, bundled with the package so that counting never needs a network.

A table is a zlib stream of: for each token length 1…128 the number of tokens of that length (u32, little endian);
then all tokens, ordered by length and then by bytes; then their ranks as three byte planes (low, middle, high). With
fixed widths and sorted order, one token is looked up without building a dictionary of 200,000 entries first.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import sys
import tempfile
import zlib
from array import array
from binascii import b2a_base64
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import overload

from ftpipe.atomic_files import write_bytes
from ftpipe.errors import LocalStateError
from ftpipe.file_hash import sha256_of_file
from ftpipe.paths import home

MAX_TOKEN_BYTES = 128
HEAD_BYTES = 8
ABSENT = 1 << 30
"""Rank of bytes that are not a token: larger than every rank, so that it is never merged."""

PUBLISHED_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
"""SHA-256 of the published ``.tiktoken`` files. Source: tiktoken 0.14 ``tiktoken_ext/openai_public.py``, 2026-11-24."""

BUNDLED_SHA256 = {
    "o200k_base": "0aa965009404c24b6107e0c365e1eb3797d166c062b12af3557d702bc75d8737",
    "cl100k_base": "61e5a6c661743077ce589918a52cde709ae9a1a8c1894dbf7db7ed63b1cb3329",
}
"""SHA-256 of the same tables as bundled, before compression."""


class FixedWidthTokens:
    """Sorted tokens of equal length, searched without creating an object for each.

    Args:
        blob: Contains them one after the other.
        start: Offset of the first one.
        width: Bytes per token.
        count: Number of tokens.
    """

    def __init__(self, blob: bytes, start: int, width: int, count: int) -> None:
        self.blob, self.start, self.width, self.count = blob, start, width, count

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> bytes: ...
    def __getitem__(self, index: int | slice) -> bytes:
        """One token by its index; slices are not needed."""
        if isinstance(index, slice):
            raise TypeError("a view of tokens has no slices")
        at = self.start + index * self.width
        return self.blob[at : at + self.width]

    @cached_property
    def heads(self) -> array[int]:
        """The first eight bytes of each token as a number, padded with zeros."""
        numbers = bytearray(HEAD_BYTES * self.count)
        for index in range(min(self.width, HEAD_BYTES)):
            byte = HEAD_BYTES - 1 - index if sys.byteorder == "little" else index
            end = self.start + self.width * self.count
            numbers[byte::HEAD_BYTES] = self.blob[self.start + index : end : self.width]
        return array("Q", bytes(numbers))

    def find(self, token: bytes) -> int:
        """Index of a token of this width; -1 if there is none."""
        head = int.from_bytes(token[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0"), "big")
        at = bisect_left(self.heads, head)
        if self.width > HEAD_BYTES:
            at = bisect_left(self, token, at, bisect_right(self.heads, head, at))
        return at if at < self.count and self[at] == token else -1


class RankTable(dict[bytes, int]):
    """Token bytes → rank, looked up on first use and cached; ``ABSENT`` if the bytes are not a token."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._blob = _blob_of(encoding)
        counts = struct.unpack_from(f"<{MAX_TOKEN_BYTES}I", self._blob)
        head = 4 * MAX_TOKEN_BYTES
        starts = list(accumulate((n * width for width, n in enumerate(counts, 1)), initial=head))
        self._views = [FixedWidthTokens(self._blob, starts[w - 1], w, n) for w, n in enumerate(counts, 1)]
        self._first = list(accumulate(counts, initial=0))
        self._total = self._first[-1]
        self._planes = starts[-1]

    def _rank_at(self, index: int) -> int:
        low = self._planes + index
        return int(self._blob[low] | self._blob[low + self._total] << 8 | self._blob[low + 2 * self._total] << 16)

    def __missing__(self, token: bytes) -> int:
        rank = ABSENT
        width = len(token)
        if 0 < width <= MAX_TOKEN_BYTES:
            at = self._views[width - 1].find(token)
            if at >= 0:
                rank = self._rank_at(self._first[width - 1] + at)
        self[token] = rank
        return rank

    def _tokens_and_ranks(self) -> tuple[list[bytes], list[int]]:
        blob = self._blob
        tokens: list[bytes] = []
        for view in self._views:
            start, width = view.start, view.width
            tokens += [blob[at : at + width] for at in range(start, start + width * view.count, width)]
        low, total = self._planes, self._total
        planes = (blob[low + plane * total : low + (plane + 1) * total] for plane in range(3))
        return tokens, [one | two << 8 | three << 16 for one, two, three in zip(*planes, strict=True)]

    def all_ranks(self) -> dict[bytes, int]:
        """The whole table as a dictionary."""
        return dict(zip(*self._tokens_and_ranks(), strict=True))

    def published(self) -> bytes:
        """The table in the published form: one ``base64(token) rank`` per line, in order of rank."""
        tokens, ranks = self._tokens_and_ranks()
        ordered = [b""] * len(tokens)
        for token, rank in zip(tokens, ranks, strict=True):
            ordered[rank] = token
        texts = [b2a_base64(token, newline=False) for token in ordered]
        return b"\n".join(map(b"%s %d".__mod__, zip(texts, range(len(texts)), strict=True))) + b"\n"


def bundled_ranks(encoding: str) -> bytes:
    """The uncompressed table of an encoding, checked against its digest.

    Raises:
        LocalStateError: The package's copy is damaged.
    """
    packed = files(__package__).joinpath("data", f"{encoding}.ranks.z").read_bytes()
    try:
        blob = zlib.decompress(packed)
    except zlib.error:
        blob = b""
    if hashlib.sha256(blob).hexdigest() != BUNDLED_SHA256[encoding]:
        raise LocalStateError(
            f"The rank table of {encoding} inside the package is damaged.",
            "Install ftpipe again: pip install --force-reinstall ftpipe",
        )
    return blob


_blob_of = lru_cache(maxsize=2)(bundled_ranks)
"""Cached for the next counter of this process: about 2 MB."""


def pack(published: bytes, encoding: str) -> bytes:
    """Convert a published ``.tiktoken`` file to the bundled form, uncompressed.

    Raises:
        LocalStateError: The file is not the one whose digest tiktoken names.
    """
    if hashlib.sha256(published).hexdigest() != PUBLISHED_SHA256[encoding]:
        raise LocalStateError(f"This is not the published rank file of {encoding}.", "Download it again.")
    lines = (line.split() for line in published.splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    order = sorted(ranks, key=lambda token: (len(token), token))
    counts = [0] * MAX_TOKEN_BYTES
    for token in order:
        counts[len(token) - 1] += 1
    planes = b"".join(bytes(ranks[token] >> shift & 255 for token in order) for shift in (0, 8, 16))
    return struct.pack(f"<{MAX_TOKEN_BYTES}I", *counts) + b"".join(order) + planes


@contextmanager
def cached_rank_file(encoding: str) -> Iterator[Path]:
    """The path of a published ``.tiktoken`` file in the user's folder, or of a temporary one if that is not writable.

    Args:
        encoding: ``o200k_base`` or ``cl100k_base``.
    """
    cached = home() / "tokens" / f"{encoding}.tiktoken"
    if _is_published(cached, encoding) or _write(cached, RankTable(encoding).published()):
        yield cached
        return
    with tempfile.TemporaryDirectory(prefix="ftpipe-") as folder:
        temporary = Path(folder) / cached.name
        temporary.write_bytes(RankTable(encoding).published())
        yield temporary


def _is_published(path: Path, encoding: str) -> bool:
    try:
        return sha256_of_file(path) == PUBLISHED_SHA256[encoding]
    except OSError:
        return False


def _write(path: Path, data: bytes) -> bool:
    """Write a file atomically; False if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError:
        return False
    return True
