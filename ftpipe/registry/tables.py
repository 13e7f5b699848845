"""Tables of the registry: version 1 of its schema."""

from __future__ import annotations

import sqlalchemy as sa

APPLICATION_ID = 0x66747031
"""``ftp1``: SQLite files that carry it are ftpipe's."""

metadata = sa.MetaData()

version_table = sa.Table(
    "schema_version",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("applied_at", sa.Text, nullable=False),
)

runs_table = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("dataset_sha256", sa.Text, nullable=False),
    sa.Column("validation_sha256", sa.Text),
    sa.Column("dataset", sa.Text),
    sa.Column("validation", sa.Text),
    sa.Column("cost", sa.Text),
    sa.Column("file", sa.Text),
    sa.Column("validation_file", sa.Text),
    sa.Column("job_id", sa.Text, index=True),
    sa.Column("model_id", sa.Text),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("key", "ordinal"),
)

operations_table = sa.Table(
    "operations",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("request_digest", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("remote_id", sa.Text),
    sa.Column("sent_at", sa.Float),
    sa.Column("resolved_at", sa.Float),
    sa.Column("estimated_cost", sa.Float),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("listed_before", sa.Text),
)

files_table = sa.Table(
    "files",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

uploads_table = sa.Table(
    "uploads",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("upload_id", sa.Text, nullable=False),
    sa.Column("part_bytes", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)

parts_table = sa.Table(
    "parts",
    metadata,
    sa.Column("upload_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("part_id", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
)

jobs_table = sa.Table(
    "jobs",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, index=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

events_table = sa.Table(
    "events",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("ix_events_position", "endpoint", "job_id", "position"),
)

models_table = sa.Table(
    "models",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)

costs_table = sa.Table(
    "costs",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("estimated", sa.Float),
    sa.Column("actual", sa.Float),
    sa.Column("price_row", sa.Text),
)

aliases_table = sa.Table(
    "aliases",
    metadata,
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("moved_at", sa.Float, nullable=False),
)

alias_history_table = sa.Table(
    "alias_history",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("alias", sa.Text, nullable=False, index=True),
    sa.Column("from_model", sa.Text),
    sa.Column("to_model", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("moved_at", sa.Float, nullable=False),
)

evaluations_table = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)

deployments_table = sa.Table(
    "deployments",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

audit_log_table = sa.Table(
    "audit_log",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
)

TABLES = (
    runs_table,
    operations_table,
    files_table,
    uploads_table,
    parts_table,
    jobs_table,
    events_table,
    models_table,
    costs_table,
    aliases_table,
    alias_history_table,
    evaluations_table,
    deployments_table,
)
"""Every table of records, in the order in which they can be filled. The audit log records changes of their rows."""
UNAUDITED_TABLES = frozenset({"uploads", "parts"})
"""Tables of uploads in progress, which the audit log leaves out."""
