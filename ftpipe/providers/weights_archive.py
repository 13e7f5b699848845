"""Extracts downloaded weights: a tar archive, plain or compressed, from a host that is not trusted with the disk."""

from __future__ import annotations

import importlib
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from ftpipe.errors import InvalidResponseError, LocalStateError, MissingExtraError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_FILES = 10_000
"""Folders count, too."""
MAX_DEPTH = 32
"""Parts of a path."""
MAX_TOTAL_BYTES = 512 * 1024**3
"""Of all files together: a small archive can expand to any size."""
CHUNK_BYTES = 1 << 20
NAME = re.compile(r"\.?[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""A name of a file or folder in an archive; any other is refused."""


def extract_weights(archive: Path, folder: Path) -> list[Path]:
    """Extract the files of an archive into a folder; returns their paths.

    Links, devices, absolute paths and ``..`` are refused, and no file is overwritten.

    Raises:
        InvalidResponseError: It is not such an archive, or has a member that is refused.
        MissingExtraError: It is compressed with zstd, and no package reads that.
        LocalStateError: The disk cannot take it.
    """
    written: list[Path] = []
    total = 0
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=_decompressed(raw), mode="r|*") as tar:
            for number, member in enumerate(tar, start=1):
                if number > MAX_FILES:
                    raise InvalidResponseError("the archive with the weights has too many files and folders")
                if member.isdir():
                    continue
                target = folder / _path_of(member)
                total += member.size
                if total > MAX_TOTAL_BYTES:
                    raise InvalidResponseError("the archive with the weights has too large files")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                if source is None:
                    raise InvalidResponseError(f"the archive has no content for {member.name[:100]!r}")
                with target.open("xb") as file:
                    while data := source.read(CHUNK_BYTES):
                        file.write(data)
                written.append(target)
    except (tarfile.TarError, EOFError, ValueError, _zstd_error()) as exc:  # ValueError: a broken extended header
        raise InvalidResponseError(f"the weights are not a complete tar archive: {exc}", "download them again") from exc
    except OSError as exc:
        raise LocalStateError(
            f"cannot write the weights to {folder}: {exc.strerror or exc}", "name an empty folder on a disk with space"
        ) from exc
    if not written:
        raise InvalidResponseError("the archive with the weights is empty", "download them again")
    return written


def _path_of(member: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(member.name)
    parts = [part for part in path.parts if part != "."]
    is_plain = member.isreg() and not path.is_absolute() and 0 < len(parts) <= MAX_DEPTH
    if not is_plain or not all(NAME.fullmatch(part) for part in parts):
        raise InvalidResponseError(
            f"the archive with the weights has a member that is not a plain file: {member.name[:100]!r}",
            "nothing outside the folder was written; report it to the host",
        )
    return PurePosixPath(*parts)


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    """The archive without zstd, which ``tarfile`` reads from Python 3.14 on only."""
    magic = raw.read(len(ZSTD_MAGIC))
    raw.seek(0)
    if magic != ZSTD_MAGIC:
        return raw
    module = _zstd()
    if module is None:
        raise MissingExtraError("the weights are compressed with zstd", "pip install 'ftpipe[zstd]'")
    return cast("IO[bytes]", module.open(raw, "rb"))


def _zstd() -> Any:  # noqa: ANN401 - one of two modules with the same function
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _zstd_error() -> type[Exception]:
    return cast("type[Exception]", getattr(_zstd(), "ZstdError", EOFError))
