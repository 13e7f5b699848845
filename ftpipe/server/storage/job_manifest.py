"""``job.json`` in a job directory: what the database knows of the job, to rebuild its row if the database is lost."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftpipe.atomic_files import read_json, write_json
from ftpipe.server.storage.tables import JobRow
from ftpipe.training.job_directory import JobDirectory

SCHEMA = "ftpipe.job/1"
_OWNER = r"^[A-Za-z0-9._-]{1,64}$"
_MODEL_NAME = re.compile(r"ft:[^:]+:[^:]*:[^:]*:[^:]+")


class JobManifest(BaseModel):
    """The fields of a job's row that its owner chose, and those that follow from them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: str = Field(SCHEMA, alias="schema", pattern=f"^{SCHEMA}$")
    id: str
    owner: str = Field(pattern=_OWNER)
    created_at: int
    model: str
    base: str
    model_name: str
    method: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    requested_hyperparameters: dict[str, Any]
    grader: dict[str, Any] | None = None
    integrations: list[dict[str, Any]] | None
    user_metadata: dict[str, str] | None


_FIELDS = tuple(name for name in JobManifest.model_fields if name != "schema_")


def write_manifest(directory: JobDirectory, row: JobRow) -> None:
    """Write ``job.json``."""
    write_json(directory.manifest_file, {"schema": SCHEMA} | {name: getattr(row, name) for name in _FIELDS}, mode=0o600)


def read_manifest(directory: JobDirectory) -> JobRow | None:
    """The row of the job that a directory belongs to; ``None`` if its manifest is missing, damaged or another job's."""
    data = read_json(directory.manifest_file)
    try:
        manifest = JobManifest.model_validate(data)
    except ValidationError:
        return None
    if manifest.id != directory.path.name or not _MODEL_NAME.fullmatch(manifest.model_name):
        return None
    return JobRow(**{name: getattr(manifest, name) for name in _FIELDS})
