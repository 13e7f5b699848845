"""Write files so that a reader, and a crash, sees the old content or the new, and nothing in between."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO


def write_bytes(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file in one step, and return when the new content is on the disk.

    Args:
        path: The file; its folder must exist.
        content: The new content.
        mode: Permissions of the new file, less the umask.
    """
    temporary = temporary_path(path)
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename_durably(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def temporary_path(path: Path) -> Path:
    """A new name beside ``path``, for a file that is being written; create it with ``O_EXCL`` or mode ``x``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def write_json(path: Path, value: object, *, indent: int | None = None, mode: int = 0o666) -> None:
    """Replace a JSON file as :func:`write_bytes` does; NaN and infinities are refused.

    Raises:
        ValueError: The value contains NaN or an infinity.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    write_bytes(path, f"{text}\n".encode(), mode=mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or ``None`` if there is no readable one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the last one: nested too deeply
        return None
    return value if isinstance(value, dict) else None


def read_or_create_secret(path: Path) -> str:
    """The secret that several processes share through a file: made at the first use, readable by its owner only."""
    with suppress(OSError):
        secret = path.read_text(encoding="ascii").strip()
        if secret:
            return secret
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return path.read_text(encoding="ascii").strip()


def ends_within_line(file: BinaryIO) -> bool:
    """Whether a file ends in the middle of a line, because a program that appended to it was killed."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def rename_durably(source: Path, target: Path) -> None:
    """Give a finished file or folder its final name, so that the name survives a power cut."""
    source.replace(target)
    fsync(target.parent)


def make_readable(folder: Path) -> None:
    """Give a folder from ``mkdtemp``, which only its owner can enter, the mode that ``mkdir`` would have given it."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file's bytes a second name that keeps them alive; copy if the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Windows cannot do that for a folder, and for a file only through a writable handle.
    """
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
