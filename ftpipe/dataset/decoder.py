"""Opens a file as text: unpacks gzip and Zstandard and decodes any encoding, in bounded memory."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from ftpipe.dataset.encoding import check_encoding_name, unicode_encoding, word_against_cp1252
from ftpipe.dataset.reader import open_binary
from ftpipe.errors import DatasetError, MissingExtraError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_EXPANSION = 200
"""Size of the unpacked file over that of the packed one; text is packed 3 to 50 times smaller."""
MIN_UNPACKED_LIMIT_BYTES = 256 * 1024 * 1024
"""Unpacked size that is always accepted."""
CHUNK_BYTES = 1024 * 1024
MAX_SAMPLED_WORDS = 100
MAX_SAMPLE_CHARACTERS = 30
MAX_CHECKED_WORDS = 1_000_000
_WORD_OUTSIDE_ASCII = re.compile(rb"[^\x00-\x20\"]{0,40}[\x80-\xff][^\x00-\x20\"]{0,40}")
_COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "Zstandard"))
COMPRESSED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True)
class TextFile:
    """A file with what must be known to read it as text."""

    path: Path
    compression: str
    """``gzip`` or ``Zstandard``; empty for none."""
    encoding: str
    """Name of a Python codec."""
    sample: str = ""
    """A word outside ASCII, if the encoding was guessed."""
    word_against_cp1252: str = ""
    """A word that makes no sense as Windows-1252, if the file is not UTF-8 either."""

    @property
    def name(self) -> str:
        """The file name without the suffix of the compression."""
        return unpacked_name(self.path) if self.compression else self.path.name

    def open(self, *, newline: str = "", errors: str = "strict") -> TextIO:
        """Open it for reading; line ends are not changed.

        Args:
            newline: As for the built-in ``open``.
            errors: As for the built-in ``open``.

        Raises:
            DatasetError: While reading: it is damaged, or unpacks to too much.
        """
        stream = open_unpacked(self.path, self.compression)
        return io.TextIOWrapper(stream, encoding=self.encoding, newline=newline, errors=errors)


def unpacked_name(path: Path) -> str:
    """The file name without ``.gz`` or ``.zst``."""
    return path.stem if path.suffix.lower() in COMPRESSED_SUFFIXES else path.name


def compression_of(head: bytes) -> str:
    """The compression that the first bytes of a file show; empty for none."""
    return next((name for magic, name in _COMPRESSIONS if head.startswith(magic)), "")


def open_unpacked(path: Path, compression: str) -> BinaryIO:
    """Open a file for reading its unpacked bytes.

    Raises:
        MissingExtraError: Zstandard is not installed.
        DatasetError: While reading: it is damaged, or unpacks to too much.
    """
    file = open_binary(path)
    if not compression:
        return io.BufferedReader(file)
    stream = gzip.GzipFile(fileobj=file) if compression == "gzip" else _open_zstandard(file)
    return io.BufferedReader(_BoundedReader(stream, file, path, compression), CHUNK_BYTES)  # type: ignore[arg-type]


def _open_zstandard(file: io.FileIO) -> Any:  # noqa: ANN401  # a class of one of two packages
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14

        return zstd.ZstdFile(file)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError as exc:
        file.close()
        raise MissingExtraError(
            "reading .zst needs the package zstandard", "pip install 'ftpipe[zstd]', or unpack it: zstd -d FILE"
        ) from exc
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


class _BoundedReader(io.RawIOBase):
    """Unpacks a file, and stops at a size that no real data reaches."""

    def __init__(self, stream: BinaryIO, file: io.FileIO, path: Path, compression: str) -> None:
        self._stream, self._file, self._path, self._compression = stream, file, path, compression
        self._limit = max(MIN_UNPACKED_LIMIT_BYTES, MAX_EXPANSION * path.stat().st_size)
        self._read = 0
        self._errors: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, *_zstandard_errors())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._stream.read(len(view))
        except self._errors as exc:
            raise DatasetError(
                f"{self._path.name} is damaged: unpacking it with {self._compression} failed ({exc}).",
                "Copy or download it again.",
            ) from exc
        self._read += len(data)
        if self._read > self._limit:
            raise DatasetError(
                f"{self._path.name} unpacks to more than {self._limit:,} bytes, {MAX_EXPANSION} times its size.",
                "Unpack it yourself if it is what you expect.",
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()


def _zstandard_errors() -> tuple[type[Exception], ...]:
    """The errors of the Zstandard package that is in use."""
    packages = ("compression.zstd", "zstandard")
    return tuple(sys.modules[package].ZstdError for package in packages if package in sys.modules)


def detect_text(path: Path, encoding: str | None = None) -> TextFile:
    """Find out how a file is packed and encoded; it is read once as a whole if it may not be UTF-8.

    Args:
        path: The file.
        encoding: Its encoding, if it is known.

    Raises:
        UsageError: There is no such file or encoding.
        DatasetError: It is no text, or damaged.
        MissingExtraError: Zstandard is not installed.
    """
    with open_binary(path) as file:
        compression = compression_of(file.read(16) or b"")
    if encoding:
        return TextFile(path, compression, check_encoding_name(encoding))
    with open_unpacked(path, compression) as stream:
        head = stream.read(CHUNK_BYTES)
        found = unicode_encoding(head)
        if compression and compression_of(head):
            raise DatasetError(f"{path.name} is compressed twice.", "Unpack it once, then convert the result.")
        if not found:
            raise DatasetError(f"{path.name} is not a text file.", "Convert it to CSV or JSON Lines in UTF-8.")
        if found != "utf-8" or _is_utf8(head, stream):
            return TextFile(path, compression, found)
    with open_unpacked(path, compression) as stream:
        found_words = (word for chunk in _chunks(stream) for word in _WORD_OUTSIDE_ASCII.findall(chunk))
        words = list(islice(found_words, MAX_CHECKED_WORDS))
    if word := word_against_cp1252(words):
        return TextFile(path, compression, "utf-8", word_against_cp1252=word[:MAX_SAMPLE_CHARACTERS])
    sample = max(words[:MAX_SAMPLED_WORDS], key=len).decode("cp1252")[:MAX_SAMPLE_CHARACTERS]
    return TextFile(path, compression, "cp1252", sample)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _is_utf8(head: bytes, stream: BinaryIO) -> bool:
    """True if the whole file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in chain([head], _chunks(stream)):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
