"""The moves between a job's states; each is one transaction that looks first whether the move still applies."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import rename_durably
from ftpipe.server.api.files import RESULTS
from ftpipe.server.clock import now
from ftpipe.server.jobs.job_output import (
    TrainerEvent,
    TrainerResult,
    find_checkpoints,
    read_events,
    read_progress,
    read_result,
)
from ftpipe.server.model_resolver import checkpoint_name
from ftpipe.server.protocol import new_id
from ftpipe.server.storage import CheckpointRow, EventRow, FileRow, JobRow, Store, Transaction
from ftpipe.server.storage.data_dir import INITIAL_ADAPTER_DIR, DataDirectory

INPUT_FILES = ("training.jsonl", "validation.jsonl")


class JobTransitions:
    """Writes what the supervisor has found out.

    Args:
        store: The server's memory.
        data_dir: The server's folder.
        keep: Checkpoints of a job whose files are kept.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, keep: int) -> None:
        self._store = store
        self._data_dir = data_dir
        self._keep = max(1, keep)

    def mark_validated(self, job: JobRow, error: dict[str, Any] | None) -> None:
        """The files were checked: on to the queue, or failed."""
        if error is not None:
            self.failed(job, error)
            return
        with self._store.write() as tx:
            if _has_status(tx, job, "validating_files"):
                tx.jobs.update(job.id, status="queued", validated=True)
                tx.events.append_message(job.id, "Files validated, the job is queued")

    def mark_running(self, job: JobRow) -> bool:
        """A trainer is about to be started.

        Returns:
            False where the job must not run any more.
        """
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            if current is None or current.status not in ("queued", "running") or current.desired_state != "run":
                return False
            if current.status == "queued" and current.started_at is not None:
                tx.events.append_message(job.id, "Training goes on")
            tx.jobs.update(job.id, status="running", has_trainer=True, started_at=current.started_at or now())
        return True

    def import_output(self, job: JobRow) -> None:
        """Take over what the trainer has written since the last look."""
        folder = self._data_dir.job(job.id)
        offset = job.events_offset
        while True:
            lines, end = read_events(folder, offset)
            if end == offset:
                break
            with self._store.write() as tx:
                for line in lines:
                    tx.events.add(_event(job.id, line))
                tx.jobs.update(job.id, events_offset=end)
            offset = end
        self._sync_progress(job)
        self._sync_checkpoints(job)

    def _sync_progress(self, job: JobRow) -> None:
        seen = read_progress(self._data_dir.job(job.id))
        changes: dict[str, Any] = {}
        if seen.resolved is not None and seen.resolved != job.resolved_hyperparameters:
            changes["resolved_hyperparameters"] = seen.resolved
        if seen.estimated_finish != job.estimated_finish and job.status == "running":
            changes["estimated_finish"] = seen.estimated_finish
        if changes:
            with self._store.write() as tx:
                tx.jobs.update(job.id, **changes)

    def _sync_checkpoints(self, job: JobRow) -> None:
        found = find_checkpoints(self._data_dir.job(job.id))
        there = {step for step, _ in found}
        with self._store.read() as tx:
            rows = tx.checkpoints.for_job(job.id)
        known = {row.step for row in rows}
        fresh = [(step, metrics) for step, metrics in found if step not in known]
        lost = [row for row in rows if not row.removed and row.step not in there]
        if not fresh and not lost:
            return
        with self._store.write() as tx:
            for row in lost:
                # The trainer keeps only its last ones.
                tx.checkpoints.remove(row.id)
            for step, metrics in fresh:
                tx.checkpoints.add(_checkpoint(job, step, metrics))
            self._drop_old(tx, job)

    def _drop_old(self, tx: Transaction, job: JobRow) -> None:
        rows = sorted(tx.checkpoints.for_job(job.id), key=lambda row: row.step)
        for row in rows[: -self._keep]:
            if not row.removed:
                tx.checkpoints.remove(row.id)
            folder = self._data_dir.checkpoint(job.id, row.step)
            tx.after_commit.append(partial(shutil.rmtree, folder, ignore_errors=True))

    def finish(self, job: JobRow, result: TrainerResult) -> None:
        """The trainer has left its result."""
        step = result.final_step
        if not result.succeeded or step is None:
            nothing = {"code": "server_error", "message": "The trainer ended without a model", "param": None}
            self.failed(job, result.error or nothing)
            return
        if not (self._data_dir.checkpoint(job.id, step) / "manifest.json").is_file():
            lost = {"code": "server_error", "message": "The model's files are missing", "param": None}
            self.failed(job, lost)
            return
        row = self._result_file(job)
        with self._store.write() as tx:
            if not _has_status(tx, job, "running"):
                return
            if row is not None:
                tx.files.add(row)
            tx.jobs.update(
                job.id,
                status="succeeded",
                has_trainer=False,
                fine_tuned_model=job.model_name,
                final_step=step,
                trained_tokens=result.trained_tokens,
                finished_at=result.finished_at or now(),
                estimated_finish=None,
                result_file=None if row is None else row.id,
            )
            tx.events.append_message(job.id, f"New fine-tuned model created: {job.model_name}")
            tx.events.append_message(job.id, "The job has successfully completed")
            tx.after_commit.append(partial(self._clean, job))

    def _result_file(self, job: JobRow) -> FileRow | None:
        """The metrics as a stored file; its id follows from the job's, so that doing it again changes nothing."""
        source = self._data_dir.job(job.id) / "metrics.csv"
        if not source.is_file():
            return None
        file_id = "file-" + job.id.removeprefix("ftjob-")
        aside = self._data_dir.incoming / file_id
        content = source.read_bytes()
        aside.write_bytes(content)
        rename_durably(aside, self._data_dir.file(file_id))
        return FileRow(
            id=file_id,
            owner=job.owner,
            filename="step_metrics.csv",
            purpose=RESULTS,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            created_at=now(),
        )

    def failed(self, job: JobRow, error: dict[str, Any]) -> None:
        """The job ends without a model."""
        with self._store.write() as tx:
            if not _has_status(tx, job, job.status):
                return
            tx.jobs.update(
                job.id, status="failed", has_trainer=False, error=error, finished_at=now(), estimated_finish=None
            )
            tx.events.append_message(job.id, f"The job failed: {error['message']}", level="error")
            tx.after_commit.append(partial(self._clean, job))

    def paused(self, job: JobRow) -> None:
        """The trainer has stopped because its owner wanted a pause."""
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            # The owner may have thought better of it while the trainer was stopping.
            if current is not None and (current.status, current.desired_state) == ("running", "pause"):
                tx.jobs.update(job.id, status="paused", has_trainer=False, attempts=0, estimated_finish=None)
                tx.events.append_message(
                    job.id, f"The job is paused at step {read_progress(self._data_dir.job(job.id)).step}"
                )

    def mark_stopped(self, job: JobRow) -> None:
        """The trainer of a cancelled job is gone."""
        with self._store.write() as tx:
            tx.jobs.update(job.id, has_trainer=False)
            tx.after_commit.append(partial(self._clean, job))

    def requeue(self, job: JobRow) -> None:
        """The server stops: the job goes back to the queue, unless its trainer has left a result."""
        if read_result(self._data_dir.job(job.id)) is not None:
            return
        self.import_output(job)
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            if current is not None and current.status == "running":
                status = "paused" if current.desired_state == "pause" else "queued"
                tx.jobs.update(job.id, status=status, has_trainer=False, estimated_finish=None)
                tx.events.append_message(job.id, "The server stops; training goes on when it is started again")

    def _clean(self, job: JobRow) -> None:
        """Remove what an ended job does not need any more."""
        folder = self._data_dir.job(job.id)
        for name in INPUT_FILES:
            (folder / name).unlink(missing_ok=True)
        for name in ("resume", INITIAL_ADAPTER_DIR):
            shutil.rmtree(folder / name, ignore_errors=True)
        self._clean_torn(folder / "checkpoints")

    @staticmethod
    def _clean_torn(folder: Path) -> None:
        """Remove checkpoints that a killed trainer left half written under a name aside."""
        if folder.is_dir():
            for place in folder.iterdir():
                if not (place / "manifest.json").is_file():
                    shutil.rmtree(place, ignore_errors=True)


def _has_status(tx: Transaction, job: JobRow, status: str) -> bool:
    current = tx.jobs.get(job.id)
    return current is not None and current.status == status


def _event(job_id: str, line: TrainerEvent) -> EventRow:
    return EventRow(
        id=new_id("ftevent-"),
        job_id=job_id,
        created_at=line.created_at,
        level=line.level,
        type=line.type,
        message=line.message,
        data=line.data,
    )


def _checkpoint(job: JobRow, step: int, metrics: dict[str, float]) -> CheckpointRow:
    return CheckpointRow(
        id=new_id("ftckpt_"),
        job_id=job.id,
        created_at=now(),
        step=step,
        model_name=checkpoint_name(job.model_name, step),
        metrics=metrics,
    )
