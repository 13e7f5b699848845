"""The thread that carries every job from the queue to its end, through any crash of server or trainer.

For each open job it observes the trainer's process and the job directory, decides on a transition (``transitions.py``)
and applies it. Nothing that matters is kept in this process alone, so a new server continues where the old one was
killed.
"""

from __future__ import annotations

import logging
import time

from ftpipe.errors import FtpipeError
from ftpipe.modeling.base_models import needs_download
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.jobs.grader_requests import GraderRequests
from ftpipe.server.jobs.job_output import import_output
from ftpipe.server.jobs.supervisor_thread import ERROR_BACKOFF_SECONDS, SupervisorThread
from ftpipe.server.jobs.trainer_process import TrainerProcess, find_running, start
from ftpipe.server.jobs.transitions import (
    DelayRestart,
    Observation,
    PauseTrainer,
    StartTrainer,
    StartValidation,
    TerminateTrainer,
    TrainerExit,
    Transition,
    Wait,
    decide,
)
from ftpipe.server.jobs.validation_process import FileValidator
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import JobRow, Store
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.training.job_directory import JobDirectory, JobSpec, WorkerConfig

log = logging.getLogger("ftpipe.server.jobs")

PAUSE_TIMEOUT_SECONDS = 8.0
"""How long trainers may take to save their state when the server stops."""
PAUSE_POLL_SECONDS = 0.05


class Supervisor(SupervisorThread):
    """Runs jobs.

    Args:
        store: The server's database.
        data_dir: The server's directory.
        settings: Limits, and the command that starts a trainer.
        validator: Validates the files of jobs.
        graders: Answers what the graders of jobs ask models.
    """

    def __init__(
        self,
        store: Store,
        data_dir: DataDirectory,
        settings: ServeSettings,
        validator: FileValidator,
        graders: GraderRequests,
    ) -> None:
        super().__init__("supervisor", store, data_dir, settings, validator)
        self._graders = graders
        self._trainers: dict[str, TrainerProcess] = {}
        self._restart_at: dict[str, float] = {}
        self._backoff_until: dict[str, float] = {}

    def stop(self) -> None:
        """End the thread; running trainers save their state and end, and their jobs resume at the next start."""
        super().stop()
        with self._store.read() as tx:
            running = [job for job in tx.jobs.open() if job.has_trainer and job.upstream is None]
        self._pause_all(running)
        self._graders.close()

    def _poll_jobs(self) -> bool:
        jobs = self._open_jobs()
        self._validator.stop_unless({job.id for job in jobs if job.status == "validating_files"})
        self._graders.stop_unless({job.id for job in jobs if job.status == "running"})
        for job in jobs:
            if job.status != "queued":
                self._reconcile(job, slot_available=False)
        self._start_queued()
        return bool(jobs)

    def _start_queued(self) -> None:
        """Start queued jobs, oldest first, while there are free slots."""
        jobs = self._open_jobs()
        free_slots = self._settings.max_jobs - sum(job.has_trainer or job.status == "running" for job in jobs)
        for job in jobs:
            if job.status == "queued":
                transition = self._reconcile(job, slot_available=free_slots > 0)
                free_slots -= isinstance(transition, StartTrainer)

    def _open_jobs(self) -> list[JobRow]:
        with self._store.read() as tx:
            return [job for job in tx.jobs.open() if job.upstream is None]

    def _reconcile(self, job: JobRow, *, slot_available: bool) -> Transition | None:
        """Observe a job, decide, and apply the decision; ``None`` after an error."""
        if time.monotonic() < self._backoff_until.get(job.id, 0.0):
            return None
        try:
            observed = self._observe(job, slot_available=slot_available)
            transition = decide(job, observed)
            self._apply(job, transition)
        except (FtpipeError, OSError) as exc:
            self._backoff_until[job.id] = time.monotonic() + ERROR_BACKOFF_SECONDS
            log.error("job %s: error, trying again: %s", job.id, exc)
            return None
        return transition

    def _observe(self, job: JobRow, *, slot_available: bool) -> Observation:
        """Read the trainer's process, then the job directory: a trainer that has ended has written everything."""
        directory = self._data_dir.job(job.id)
        if job.status not in TERMINAL_STATUSES and not directory.path.is_dir():
            return Observation(directory_exists=False)
        if job.status == "validating_files":
            return self._observe_validation(job)
        if job.status == "queued":
            return Observation(slot_available=slot_available)
        trainer = self._trainer(job)
        alive = trainer is not None and trainer.is_alive()
        if alive:
            self._graders.poll(job, directory)
        trainer_exit = None if alive or trainer is None else TrainerExit.of(trainer)
        if job.status == "running" or not alive:
            import_output(self._store, job, directory)
        result = directory.read_result()
        return Observation(
            trainer_alive=alive,
            trainer_exit=trainer_exit,
            step=directory.read_progress().step,
            result=result,
            model_saved=result is not None
            and result.final_step is not None
            and directory.has_checkpoint(result.final_step),
            restart_delayed=time.monotonic() < self._restart_at.get(job.id, 0.0),
        )

    def _apply(self, job: JobRow, transition: Transition) -> None:
        trainer = self._trainers.get(job.id)
        match transition:
            case PauseTrainer():
                if trainer is not None:
                    trainer.pause()
            case TerminateTrainer():
                if trainer is not None:
                    trainer.terminate()
            case StartTrainer():
                self._start(job)
            case StartValidation():
                # Stored before the start: a validation that kills the server counts, too.
                if self._writer.apply(job, transition):
                    self._validator.start(job, self._data_dir.job(job.id))
            case Wait():
                pass
            case _:
                if isinstance(transition, DelayRestart):
                    log.warning("the trainer of job %s ended without a result", job.id)
                    self._restart_at[job.id] = time.monotonic() + transition.delay_seconds
                self._writer.apply(job, transition)
                if trainer is not None and not trainer.is_alive():
                    del self._trainers[job.id]

    def _start(self, job: JobRow) -> None:
        directory = self._data_dir.job(job.id)
        directory.write_spec(self._spec(job, directory))
        # Stored before the start: a server that is killed in between finds the trainer, or starts it again.
        if not self._writer.apply(job, StartTrainer()):
            return
        self._trainers.pop(job.id, None)
        try:
            downloads = needs_download(job.base, self._settings.models_dir)
            trainer = start(self._settings.trainer_command, directory, downloads=downloads)
        except OSError as exc:
            log.error("the trainer of job %s could not be started: %s", job.id, exc)
            self._restart_at[job.id] = time.monotonic() + ERROR_BACKOFF_SECONDS
            return
        trainer = trainer or find_running(directory)
        if trainer is not None:
            self._trainers[job.id] = trainer

    def _spec(self, job: JobRow, directory: JobDirectory) -> JobSpec:
        settings = self._settings
        return JobSpec(
            job_id=job.id,
            method=job.method,
            base_model=job.base,
            training_file=directory.training_file,
            validation_file=directory.validation_file if job.validation_file else None,
            initial_adapter=directory.initial_adapter if directory.initial_adapter.is_dir() else None,
            hyperparameters=job.requested_hyperparameters,
            seed=job.seed,
            model_name=job.model_name,
            models_dir=settings.models_dir,
            keep_checkpoints=settings.keep_checkpoints,
            grader=job.grader,
            allow_python_graders=settings.allow_python_graders,
            worker_config=WorkerConfig(settings.engine, settings.workers, settings.ray_address, settings.strategy),
        )

    def _trainer(self, job: JobRow) -> TrainerProcess | None:
        trainer = self._trainers.get(job.id)
        if trainer is None:
            trainer = find_running(self._data_dir.job(job.id))
            if trainer is not None:
                log.info("job %s: took over its running trainer", job.id)
                self._trainers[job.id] = trainer
        return trainer

    def _pause_all(self, jobs: list[JobRow]) -> None:
        """Pause trainers so that their jobs can resume later."""
        running = [(job, trainer) for job in jobs if (trainer := self._trainer(job)) is not None]
        deadline = time.monotonic() + PAUSE_TIMEOUT_SECONDS
        while any(trainer.is_alive() for _, trainer in running):
            for job, trainer in running:
                if job.status in TERMINAL_STATUSES or time.monotonic() > deadline:
                    trainer.terminate()
                else:
                    trainer.pause()
            time.sleep(PAUSE_POLL_SECONDS)
        for job, _ in running:
            self._writer.requeue(job)
