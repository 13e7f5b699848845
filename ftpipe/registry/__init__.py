"""The registry and the journal, in one database, and the one way to open it."""

from __future__ import annotations

from pathlib import Path

from ftpipe.paths import state_dir
from ftpipe.registry.database import open_engine
from ftpipe.registry.registry import Registry

__all__ = ["Registry", "open_registry"]

FILE_NAME = "registry.db"


def open_registry(url: str | Path | None = None) -> Registry:
    """Open the registry; it is made at first use.

    Args:
        url: A path, ``sqlite:///…`` or ``postgresql://…``; by default ``registry.db`` in the project's state folder.

    Raises:
        ConfigError: The URL cannot be used.
        LocalStateError: The database cannot be opened, is damaged, or is of a newer ftpipe.
    """
    return Registry(open_engine(str(url) if url else str(state_dir() / FILE_NAME)))
