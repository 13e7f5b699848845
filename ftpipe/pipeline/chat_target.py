"""What a chat with a registered model needs: the system message of its training data, and whether it was shut down."""

from __future__ import annotations

from datetime import UTC, datetime

from ftpipe.dataset import iter_records
from ftpipe.providers.deadlines import days_left, shutdown_text
from ftpipe.records import Model
from ftpipe.registry import Registry


def shutdown_message(model: Model) -> str:
    """Says that a model was shut down, if its day has come; empty otherwise."""
    today = datetime.now(UTC).date()
    left = days_left(model.base_shutdown_date, today)
    is_over = left is not None and left <= 0
    return f"{model.id} {shutdown_text(model.base_shutdown_date or '', today)}" if is_over else ""


def trained_system(registry: Registry, model: Model) -> str:
    """Return the system message of the first training record; empty if there is none, or if the file is gone."""
    run = registry.runs.find(model.job_id)
    if run is None or run.dataset is None or not run.spec.data.is_file():  # an adopted job's file is not a path here
        return ""
    _, record = next(iter_records(run.spec.data), (0, {}))
    messages = record.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, dict) or first.get("role") != "system":
        return ""
    content = first.get("content")
    return content if isinstance(content, str) else ""
