"""The registry: what ftpipe remembers in one database, opened by ``open_registry``."""

from __future__ import annotations

from pathlib import Path

from ftpipe.paths import state_dir
from ftpipe.registry.database import open_engine
from ftpipe.registry.registry import Registry

__all__ = ["Registry", "open_registry"]

FILE_NAME = "registry.db"


def open_registry(url: str | Path | None = None) -> Registry:
    """Open the registry; its database is created at first use.

    Args:
        url: A path, ``sqlite:///…`` or ``postgresql://…``; default: ``registry.db`` in the project's state folder.

    Raises:
        ConfigError: The URL cannot be used.
        LocalStateError: The database cannot be opened, is damaged, or was written by a newer ftpipe.
    """
    return Registry(open_engine(str(url) if url else str(state_dir() / FILE_NAME)))
