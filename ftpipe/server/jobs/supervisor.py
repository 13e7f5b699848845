"""The thread that carries every job from the queue to its end, through any crash of server or trainer.

Each step is: look at the job as it is stored, look at its folder and its process, write the next state in one
transaction that checks the state again. Nothing that matters lives in this process alone, so a new server takes up
where the old one was killed.
"""

from __future__ import annotations

import logging
import threading
import time

from ftpipe.atomic_files import write_json
from ftpipe.errors import FtpipeError
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.jobs.file_validation import FileValidator
from ftpipe.server.jobs.job_output import read_progress, read_result
from ftpipe.server.jobs.trainer_process import TrainerProcess, find_running, start
from ftpipe.server.jobs.transitions import JobTransitions
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import JobRow, Store
from ftpipe.server.storage.cleanup import delete_expired
from ftpipe.server.storage.data_dir import INITIAL_ADAPTER_DIR, DataDirectory

log = logging.getLogger("ftpipe.server.jobs")

CLEANUP_INTERVAL_SECONDS = 60.0
ERROR_BACKOFF_SECONDS = 5.0
"""How long a job is left alone after something went wrong with it."""
PAUSE_SECONDS = 8.0
"""How long trainers may take to keep their state when the server stops."""
MAX_FAILED_STARTS = 10
"""Starts in a row without a new step, after which a job fails."""
EXCEPTION_PENALTY = 4
"""What a start counts that ended by an exception instead of a kill: three of those are enough."""


class Supervisor(threading.Thread):
    """Runs jobs.

    Args:
        store: The server's memory.
        data_dir: The server's folder.
        settings: Limits, and what starts a trainer.
        checker: Checks the files of jobs.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, settings: ServeSettings, checker: FileValidator) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._checker = checker
        self._transitions = JobTransitions(store, data_dir, settings.keep_checkpoints)
        self._trainers: dict[str, TrainerProcess] = {}
        self._not_before: dict[str, float] = {}
        self._resting: dict[str, float] = {}
        self._woken = threading.Event()
        self._stopping = False
        self._swept = 0.0

    def wake(self) -> None:
        """Look at the jobs now instead of at the next poll."""
        self._woken.set()

    def run(self) -> None:
        """Look, act, wait, until ``stop``."""
        while not self._stopping:
            self._woken.clear()
            busy = self._guarded_poll()
            # With nothing open there is nothing to watch: only a wake or the sweep is waited for.
            self._woken.wait(self._settings.poll_interval if busy else CLEANUP_INTERVAL_SECONDS)

    def stop(self) -> None:
        """End the thread; running trainers keep their state and end, and their jobs go on at the next start."""
        self._stopping = True
        self._woken.set()
        if self.is_alive():
            self.join()
        self._checker.close()
        with self._store.read() as tx:
            running = [job for job in tx.jobs.open() if job.has_trainer]
        self._pause_all(running)

    def _guarded_poll(self) -> bool:
        try:
            return self.poll()
        except FtpipeError as exc:
            # A full disk is waited out; the jobs are as they were.
            log.error("the supervisor could not go on and tries again: %s", exc)
            return True

    def poll(self) -> bool:
        """One look at everything.

        Returns:
            True where some job is open.
        """
        if time.monotonic() - self._swept > CLEANUP_INTERVAL_SECONDS:
            self._swept = time.monotonic()
            delete_expired(self._store, self._data_dir)
        with self._store.read() as tx:
            jobs = tx.jobs.open()
        for job in jobs:
            self._guarded_step(job)
        self._start_waiting()
        return bool(jobs)

    def _guarded_step(self, job: JobRow) -> None:
        if time.monotonic() < self._resting.get(job.id, 0.0):
            return
        try:
            self._step(job)
        except (FtpipeError, OSError) as exc:
            self._resting[job.id] = time.monotonic() + ERROR_BACKOFF_SECONDS
            log.error("job %s could not go on and is tried again: %s", job.id, exc)

    def _step(self, job: JobRow) -> None:
        if job.status not in TERMINAL_STATUSES and not self._data_dir.job(job.id).is_dir():
            self._transitions.failed(
                job, {"code": "server_error", "message": "The job directory is missing", "param": None}
            )
        elif job.status in TERMINAL_STATUSES:
            self._stop_cancelled(job)
        elif job.status == "validating_files":
            self._check(job)
        elif job.status == "running":
            self._watch(job)

    def _check(self, job: JobRow) -> None:
        verdict = self._checker.poll(job, self._data_dir.job(job.id))
        if verdict is not None:
            self._transitions.mark_validated(job, verdict.error)

    def _stop_cancelled(self, job: JobRow) -> None:
        """See that the trainer of a cancelled job ends."""
        trainer = self._trainer(job)
        if trainer is not None and trainer.is_alive():
            trainer.terminate()
            return
        self._transitions.import_output(job)
        self._forget(job)
        self._transitions.mark_stopped(job)

    def _watch(self, job: JobRow) -> None:
        trainer = self._trainer(job)
        alive = trainer is not None and trainer.is_alive()
        # Read after the look at the process: a dead one has written all that it will.
        self._transitions.import_output(job)
        if alive and trainer is not None:
            if job.desired_state == "pause":
                trainer.pause()
            return
        self._forget(job)
        result = read_result(self._data_dir.job(job.id))
        if result is not None:
            self._transitions.finish(job, result)
        elif job.desired_state == "pause":
            self._transitions.paused(job)
        else:
            self._restart(job, trainer)

    def _restart(self, job: JobRow, last: TrainerProcess | None) -> None:
        if time.monotonic() < self._not_before.get(job.id, 0.0):
            return
        attempts = job.attempts
        if last is not None and not last.pause_sent:
            attempts = self._record_failed_start(job, last)
        if attempts >= MAX_FAILED_STARTS:
            step = read_progress(self._data_dir.job(job.id)).step
            message = f"The trainer stopped {self._exit_description(last)} at step {step}"
            self._transitions.failed(job, {"code": "server_error", "message": message, "param": None})
            return
        if last is not None and attempts:
            self._not_before[job.id] = time.monotonic() + min(10.0, 0.25 * attempts)
            return
        self._start(job)

    @staticmethod
    def _exit_description(last: TrainerProcess | None) -> str:
        code = None if last is None else last.exit_code
        return "again and again" if code is None or code < 0 else f"with exit code {code} each time it was started"

    def _record_failed_start(self, job: JobRow, last: TrainerProcess) -> int:
        """How often the trainer has ended in a row without a new step; kept in the store."""
        step = read_progress(self._data_dir.job(job.id)).step
        before = 0 if step > job.attempt_step else job.attempts
        attempts = before + (EXCEPTION_PENALTY if (last.exit_code or 0) > 0 else 1)
        log.warning("the trainer of job %s ended without a result at step %d", job.id, step)
        with self._store.write() as tx:
            tx.jobs.update(job.id, attempts=attempts, attempt_step=max(step, job.attempt_step))
        return attempts

    def _start_waiting(self) -> None:
        """Start queued jobs, oldest first, while there is room."""
        with self._store.read() as tx:
            jobs = tx.jobs.open()
        room = self._settings.max_jobs - sum(job.has_trainer or job.status == "running" for job in jobs)
        for job in [job for job in jobs if job.status == "queued" and not job.has_trainer][: max(0, room)]:
            self._start(job)

    def _start(self, job: JobRow) -> None:
        folder = self._data_dir.job(job.id)
        write_json(folder / "spec.json", self._spec(job), mode=0o600)
        if not self._transitions.mark_running(job):
            return
        try:
            trainer = start(self._settings.trainer_command, folder)
        except OSError as exc:
            log.error("the trainer of job %s could not be started: %s", job.id, exc)
            self._not_before[job.id] = time.monotonic() + 5.0
            return
        trainer = trainer or find_running(folder)
        if trainer is not None:
            self._trainers[job.id] = trainer

    def _spec(self, job: JobRow) -> dict[str, object]:
        folder = self._data_dir.job(job.id)
        return {
            "job_id": job.id,
            "method": job.method,
            "base_model": job.base,
            "training_file": str(folder / "training.jsonl"),
            "validation_file": str(folder / "validation.jsonl") if job.validation_file else None,
            "initial_adapter": str(folder / INITIAL_ADAPTER_DIR) if (folder / INITIAL_ADAPTER_DIR).is_dir() else None,
            "hyperparameters": job.requested_hyperparameters,
            "seed": job.seed,
            "model_name": job.model_name,
            "models_dir": str(self._settings.models_dir),
            "worker_config": {
                "engine": self._settings.engine,
                "workers": self._settings.workers,
                "address": self._settings.ray_address,
            },
        }

    def _trainer(self, job: JobRow) -> TrainerProcess | None:
        known = self._trainers.get(job.id)
        if known is None:
            known = find_running(self._data_dir.job(job.id))
            if known is not None:
                log.info("job %s: its trainer is still at work and is taken over", job.id)
                self._trainers[job.id] = known
        return known

    def _forget(self, job: JobRow) -> None:
        self._trainers.pop(job.id, None)

    def _pause_all(self, jobs: list[JobRow]) -> None:
        """Bring trainers to rest so that their jobs can go on later."""
        at_work = [(job, trainer) for job in jobs if (trainer := self._trainer(job)) is not None]
        deadline = time.monotonic() + PAUSE_SECONDS
        while any(trainer.is_alive() for _, trainer in at_work):
            for job, trainer in at_work:
                if job.status in TERMINAL_STATUSES or time.monotonic() > deadline:
                    trainer.terminate()
                else:
                    trainer.pause()
            time.sleep(0.05)
        for job, _ in at_work:
            self._transitions.requeue(job)
