"""The server's own tables: files, uploads, jobs and what belongs to them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSION = 1
"""Written to ``user_version``; a database with a higher number was made by a newer ftpipe and is refused."""

metadata = MetaData()

files = Table(
    "files",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer),
    sqlite_autoincrement=True,
)

uploads = Table(
    "uploads",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False),
    Column("file_expires_after", Integer),
    Column("file_id", String),
    sqlite_autoincrement=True,
)

parts = Table(
    "parts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("upload_id", String, ForeignKey("uploads.id"), nullable=False, index=True),
    Column("bytes", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("method", String, nullable=False),
    Column("training_file", String, nullable=False),
    Column("validation_file", String),
    Column("suffix", Text),
    Column("seed", Integer, nullable=False),
    Column("requested_hyperparameters", JSON, nullable=False),
    Column("resolved_hyperparameters", JSON),
    Column("integrations", JSON),
    Column("user_metadata", JSON),
    Column("status", String, nullable=False, index=True),
    Column("desired_state", String, nullable=False),
    Column("validated", Boolean, nullable=False),
    Column("has_trainer", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("attempt_step", Integer, nullable=False),
    Column("events_offset", Integer, nullable=False),
    Column("started_at", Integer),
    Column("finished_at", Integer),
    Column("estimated_finish", Integer),
    Column("trained_tokens", Integer),
    Column("fine_tuned_model", Text, unique=True),
    Column("final_step", Integer),
    Column("error", JSON),
    Column("result_file", String),
    Column("deleted", Boolean, nullable=False),
    sqlite_autoincrement=True,
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", String, ForeignKey("jobs.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
    Index("job_metadata_by_value", "key", "value"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    Column("level", String, nullable=False),
    Column("type", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON),
    sqlite_autoincrement=True,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("model_name", Text, nullable=False, unique=True),
    Column("metrics", JSON, nullable=False),
    Column("removed", Boolean, nullable=False),
    UniqueConstraint("job_id", "step"),
    sqlite_autoincrement=True,
)

permissions = Table(
    "permissions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("checkpoint", Text, nullable=False, index=True),
    Column("project_id", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("checkpoint", "project_id"),
    sqlite_autoincrement=True,
)

completions = Table(
    "completions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False),
    Column("model", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Column("body", JSON, nullable=False),
    sqlite_autoincrement=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created_at", Integer, nullable=False),
)
