"""The registry: what ftpipe remembers in one database, opened by ``open_registry``."""

from __future__ import annotations

from pathlib import Path

from ftpipe.paths import default_registry
from ftpipe.registry.database import open_engine, open_engine_read_only
from ftpipe.registry.registry import Registry

__all__ = ["Registry", "open_registry"]


def open_registry(url: str | Path | None = None, *, read_only: bool = False) -> Registry:
    """Open the registry; its database is created at first use.

    Args:
        url: A path, ``sqlite:///…`` or ``postgresql://…``; default: ``registry.db`` in the project's state folder.
        read_only: Write nothing, neither to the database nor beside it; an SQLite database that does not exist is
            empty then, and is not created.

    Raises:
        ConfigError: The URL cannot be used.
        LocalStateError: The database cannot be opened, is damaged, or was written by a newer ftpipe.
    """
    open_database = open_engine_read_only if read_only else open_engine
    return Registry(open_database(str(url or default_registry())))
