"""Copy what a trainer has written to its job directory into the store: events, progress and checkpoints."""

from __future__ import annotations

from typing import Any

from ftpipe.server.clock import now
from ftpipe.server.model_resolver import checkpoint_name
from ftpipe.server.protocol import new_id
from ftpipe.server.storage import CheckpointRow, EventRow, JobRow, Store
from ftpipe.training.job_directory import Checkpoint, JobDirectory, TrainerEvent


def import_output(store: Store, job: JobRow, directory: JobDirectory) -> None:
    """Copy what is new since the last call; each event is copied exactly once, also across a crash."""
    _import_events(store, job, directory)
    _import_progress(store, job, directory)
    _import_checkpoints(store, job, directory)


def _import_events(store: Store, job: JobRow, directory: JobDirectory) -> None:
    offset = job.events_offset
    while True:
        events, end = directory.read_events(offset)
        if end == offset:
            return
        with store.write() as tx:
            for event in events:
                tx.events.add(_event_row(job.id, event))
            tx.jobs.update(job.id, events_offset=end)
        offset = end


def _import_progress(store: Store, job: JobRow, directory: JobDirectory) -> None:
    progress = directory.read_progress()
    changes: dict[str, Any] = {}
    if progress.hyperparameters and progress.hyperparameters != job.resolved_hyperparameters:
        changes["resolved_hyperparameters"] = progress.hyperparameters
    if progress.estimated_finish != job.estimated_finish and job.status == "running":
        changes["estimated_finish"] = progress.estimated_finish
    if changes:
        with store.write() as tx:
            tx.jobs.update(job.id, **changes)


def _import_checkpoints(store: Store, job: JobRow, directory: JobDirectory) -> None:
    checkpoints = directory.checkpoints()
    steps = {checkpoint.step for checkpoint in checkpoints}
    with store.read() as tx:
        rows = tx.checkpoints.for_job(job.id)
    known = {row.step for row in rows}
    new = [checkpoint for checkpoint in checkpoints if checkpoint.step not in known]
    pruned = [row for row in rows if not row.removed and row.step not in steps]
    if not new and not pruned:
        return
    with store.write() as tx:
        for row in pruned:
            # The trainer keeps only the newest checkpoints.
            tx.checkpoints.remove(row.id)
        for checkpoint in new:
            tx.checkpoints.add(_checkpoint_row(job, checkpoint))


def _event_row(job_id: str, event: TrainerEvent) -> EventRow:
    return EventRow(
        id=new_id("ftevent-"),
        job_id=job_id,
        created_at=event.created_at,
        level=event.level,
        type=event.type,
        message=event.message,
        data=event.data,
    )


def _checkpoint_row(job: JobRow, checkpoint: Checkpoint) -> CheckpointRow:
    return CheckpointRow(
        id=new_id("ftckpt_"),
        job_id=job.id,
        created_at=now(),
        step=checkpoint.step,
        model_name=checkpoint_name(job.model_name, checkpoint.step),
        metrics=checkpoint.metrics,
    )
