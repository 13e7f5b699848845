"""Protects the files of users: what a command writes is a new file, and never one that it reads."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ftpipe.atomic_files import temporary_path
from ftpipe.errors import LocalStateError, UsageError


def check_outputs(outputs: Iterable[tuple[str, Path]], *, inputs: Iterable[Path] = (), force: bool = False) -> None:
    """Check that no output exists, that none is an input, and that all are different.

    Symbolic links, hard links and names that differ only in case are the same file. Pipes and character devices, such
    as ``/dev/null``, can always be written to.

    Args:
        outputs: Files that will be written, each with the flag that names it.
        inputs: Files that are read.
        force: Files that exist may be replaced; inputs may not.

    Raises:
        UsageError: An output cannot be written.
    """
    checked: list[tuple[str, Path]] = []
    sources = list(inputs)
    for flag, path in outputs:
        if is_stream(path):
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and {flag} needs a file", f"give a file name with {flag}")
        for source in sources:
            if is_same_file(path, source):
                same = "" if path == source else f", the same file as {path},"
                raise UsageError(
                    f"{source}{same} is an input of this command and would be overwritten",
                    f"choose another with {flag}; --force does not replace an input",
                )
        for other_flag, other in checked:
            if is_same_file(path, other):
                flags = flag if flag == other_flag else f"{other_flag} and {flag}"
                raise UsageError(f"{flags} would write the same file, {path}", f"choose another with {flag}")
        if not force:
            _refuse_existing(flag, path)
        checked.append((flag, path))


def _refuse_existing(flag: str, path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} exists already and would be overwritten",
            f"choose another with {flag}, or add --force to replace it",
        )


def is_stream(path: Path) -> bool:
    """True for a pipe or a character device, which holds nothing that could be overwritten."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def is_same_file(first: Path, second: Path) -> bool:
    """True if both paths lead to one file, or would on a file system that ignores case."""
    try:
        if first.samefile(second):
            return True
    except (OSError, ValueError):
        pass
    one, other = (Path(os.path.realpath(path)) for path in (first, second))
    return _folded(one.name) == _folded(other.name) and _is_same_folder(one.parent, other.parent)


def _is_same_folder(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return _folded(str(first)) == _folded(str(second))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@contextmanager
def open_output(path: Path, *, force: bool = False, flag: str = "--output") -> Iterator[BinaryIO]:
    """Write a file that appears under its name only if the block ends without an error; missing folders are created.

    Args:
        path: The new file.
        force: Replace a file that exists.
        flag: What names the file, for the message if it exists.

    Raises:
        UsageError: The file exists, or was created by another program during the block.
        LocalStateError: It cannot be written.
    """
    if is_stream(path):
        with path.open("wb") as stream:
            yield stream
        return
    if not force:
        _refuse_existing(flag, path)
    target = Path(os.path.realpath(path))
    partial = temporary_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            yield file
        if force:
            partial.replace(target)
        else:
            _rename_to_new(partial, target, flag)
    except BrokenPipeError:
        raise
    except OSError as exc:
        # an error that names another file is about an input
        if exc.filename is not None and Path(exc.filename) not in (partial, target, target.parent):
            raise
        raise LocalStateError(f"{path} cannot be written: {exc.strerror}.", "Check the folder and the disk.") from exc
    finally:
        with suppress(OSError):
            partial.unlink()


def _rename_to_new(partial: Path, target: Path, flag: str) -> None:
    """Give a file its name in one step that fails if the name is taken."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        _refuse_existing(flag, target)
    except OSError:  # a file system without hard links
        _refuse_existing(flag, target)
        partial.replace(target)
