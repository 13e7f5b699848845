"""The state of migrations in the project's state folder: one JSON file each, so that a killed one goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from ftpipe.atomic_files import write_bytes
from ftpipe.canonical_json import canonical_json
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.paths import state_dir
from ftpipe.records.migration import Migration

FOLDER = "migrations"
FILE = "migration.json"


def migrations_dir() -> Path:
    """The folder of all migrations of the project."""
    return state_dir() / FOLDER


def migration_id(*, endpoint: str, model: str, provider: str, base: str, data_sha256: str) -> str:
    """The id of a migration: the same model, data, host and base have the same one."""
    parts = {"endpoint": endpoint, "model": model, "provider": provider, "base": base, "data": data_sha256}
    return f"migration-{hashlib.sha256(canonical_json(parts)).hexdigest()[:12]}"


def save_migration(migration: Migration) -> Migration:
    """Write the state; it is on the disk before this returns.

    Raises:
        LocalStateError: It cannot be written.
    """
    path = migrations_dir() / migration.id / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, migration.model_dump_json(indent=2).encode() + b"\n")
    except OSError as exc:
        raise LocalStateError(
            f"{path} cannot be written: {exc.strerror}",
            "free space on the disk or fix the folder's permissions, then run the same command again",
        ) from exc
    return migration


def load_migration(identity: str) -> Migration | None:
    """The migration of that id; ``None`` if it was not started yet.

    Raises:
        LocalStateError: Its file is damaged.
    """
    path = migrations_dir() / identity / FILE
    try:
        return Migration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise LocalStateError(
            f"{path} cannot be read",
            "rename its folder and run the same command again: jobs and answers are found again, and not paid twice",
        ) from exc


def all_migrations() -> Iterator[Migration]:
    """Every migration of the project, newest first."""
    folder = migrations_dir()
    loaded = [load_migration(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
    yield from sorted((one for one in loaded if one is not None), key=lambda one: one.created_at, reverse=True)


def find_migration(name: str) -> Migration:
    """The newest migration of a model: by its id, or by the name of the old or the new model.

    Raises:
        UsageError: There is none.
    """
    for one in all_migrations():
        if name in (one.id, one.old_model, one.new_model):
            return one
    raise UsageError(
        f"there is no migration of {name!r} in {migrations_dir()}",
        "`ftpipe models migrate MODEL --to HOST` starts one; `ftpipe models alias NAME MODEL` moves an alias by hand",
    )
