"""How a job's state changes: ``decide`` is a pure function of a job's row and an observation, ``apply`` writes it.

The supervisor observes each open job, asks ``decide`` for the transition, and applies it. As the decision depends on
nothing else, a server that was killed at any moment continues from what is stored and what is on disk.
"""

from __future__ import annotations

import hashlib
import signal
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftpipe.atomic_files import rename_durably
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.clock import now
from ftpipe.server.jobs.job_output import import_output
from ftpipe.server.jobs.trainer_process import TrainerProcess
from ftpipe.server.jobs.validation_process import ValidationCrash, ValidationResult
from ftpipe.server.storage import RESULT_PURPOSE, FileRow, JobRow, Store, Transaction
from ftpipe.server.storage.data_dir import DataDirectory, new_body_path
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE, JobResult

MAX_VALIDATION_ATTEMPTS = 20
"""Starts of the validation of a job's files without a result, after which the job fails."""
VALIDATION_CRASH_PENALTY = 10
"""What a start counts whose process crashed or took too long, instead of being killed with the server: two of those are
enough."""
MAX_FAILED_STARTS = 10
"""Starts in a row without a new step, after which a job fails."""
ATTEMPTS_PER_EXCEPTION = 4
"""What a start counts that ended with an exception instead of a kill: three of those are enough."""
RESTART_DELAY_SECONDS = 0.25
"""Delay after a failed start, for each failed start in a row."""
MAX_RESTART_DELAY_SECONDS = 10.0
OUT_OF_MEMORY_HINT = "use a smaller batch size, shorter rows or a smaller base model, or free memory"


@dataclass(frozen=True, slots=True)
class TrainerExit:
    """How a trainer that this server watched has ended."""

    exit_code: int | None = None
    """``None`` if it was started by an earlier server."""
    pause_sent: bool = False
    was_oom_killed: bool = False
    """True if the system says that the memory had run out."""

    @classmethod
    def of(cls, trainer: TrainerProcess) -> TrainerExit:
        """How a trainer has ended."""
        return cls(trainer.exit_code, trainer.pause_sent, trainer.was_oom_killed)

    @property
    def cause(self) -> str:
        """Why it ended, as far as one can tell; empty if one cannot."""
        if self.was_oom_killed or self.exit_code == OUT_OF_MEMORY_EXIT_CODE:
            return "the memory ran out"
        if self.exit_code == -signal.SIGKILL and not self.pause_sent:
            return "it was killed, most likely because the memory ran out"
        return ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the supervisor sees of one job, besides its row."""

    directory_exists: bool = True
    validation: ValidationResult | ValidationCrash | None = None
    """How the validation of the files ended, if it has ended since the last observation."""
    validation_running: bool = False
    """Whether the job's files are being validated."""
    validator_free: bool = False
    """Whether a validation may be started."""
    trainer_alive: bool = False
    trainer_exit: TrainerExit | None = None
    """How the trainer ended, if this server was watching it; ``None`` while it runs."""
    step: int = 0
    result: JobResult | None = None
    model_saved: bool = False
    """Whether the checkpoint of the result's final step is complete."""
    slot_available: bool = False
    """Whether another trainer may be started."""
    restart_delayed: bool = False
    """Whether the delay after a failed start is not over."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class StartValidation:
    """Start the validation of the job's files."""

    attempts: int
    """With this one."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The files are valid."""


@dataclass(frozen=True, slots=True)
class StartTrainer:
    """Start a trainer process."""


@dataclass(frozen=True, slots=True)
class PauseTrainer:
    """Ask the trainer to save its state and end."""


@dataclass(frozen=True, slots=True)
class TerminateTrainer:
    """End the trainer of a cancelled job."""


@dataclass(frozen=True, slots=True)
class ReleaseTrainer:
    """The trainer of a cancelled job has ended."""


@dataclass(frozen=True, slots=True)
class MarkPaused:
    """The trainer has ended because the job's owner requested a pause."""

    step: int


@dataclass(frozen=True, slots=True)
class DelayRestart:
    """The trainer has ended without a result; it is started again after a delay."""

    attempts: int
    attempt_step: int
    delay_seconds: float
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Succeed:
    """The job ends with a model."""

    step: int
    trained_tokens: int | None
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class Fail:
    """The job ends without a model."""

    error: dict[str, Any]


Transition = (
    Wait
    | StartValidation
    | Queue
    | StartTrainer
    | PauseTrainer
    | TerminateTrainer
    | ReleaseTrainer
    | MarkPaused
    | DelayRestart
    | Succeed
    | Fail
)


def decide(job: JobRow, observed: Observation) -> Transition:
    """The next transition of a job."""
    if job.status in TERMINAL_STATUSES:
        return TerminateTrainer() if observed.trainer_alive else ReleaseTrainer()
    if not observed.directory_exists:
        return Fail(_server_error("The job directory is missing"))
    if job.status == "validating_files":
        return _decide_validating(job, observed)
    if job.status == "queued":
        return StartTrainer() if observed.slot_available and not job.has_trainer else Wait()
    return _decide_running(job, observed) if job.status == "running" else Wait()


def _decide_validating(job: JobRow, observed: Observation) -> Transition:
    ended = observed.validation
    if isinstance(ended, ValidationResult):
        return Queue() if ended.error is None else Fail(ended.error)
    if observed.validation_running:
        return Wait()
    attempts = job.validation_attempts + (0 if ended is None else VALIDATION_CRASH_PENALTY - 1)
    if attempts >= MAX_VALIDATION_ATTEMPTS:
        reason = "the server was killed each time" if ended is None else f"{ended.reason}, as in an earlier attempt"
        message = f"The files could not be checked: {reason}"
        return Fail({"code": "invalid_training_file", "message": message, "param": "training_file"})
    return StartValidation(attempts + 1) if observed.validator_free else Wait()


def _decide_running(job: JobRow, observed: Observation) -> Transition:
    if observed.trainer_alive:
        return PauseTrainer() if job.desired_state == "pause" else Wait()
    if observed.result is not None:
        return _decide_ended(observed.result, observed)
    if job.desired_state == "pause":
        return MarkPaused(observed.step)
    attempts, attempt_step = _count_failed_starts(job, observed)
    if attempts >= MAX_FAILED_STARTS:
        message = f"The trainer stopped {_describe_exit(observed)} at step {observed.step}"
        cause = "" if observed.trainer_exit is None else observed.trainer_exit.cause
        return Fail(_server_error(f"{message}: {cause}; {OUT_OF_MEMORY_HINT}" if cause else message))
    if observed.trainer_exit is not None and attempts:
        delay = min(MAX_RESTART_DELAY_SECONDS, RESTART_DELAY_SECONDS * attempts)
        return DelayRestart(attempts, attempt_step, delay, observed.trainer_exit.cause)
    return Wait() if observed.restart_delayed else StartTrainer()


def _decide_ended(result: JobResult, observed: Observation) -> Transition:
    if not result.succeeded or result.final_step is None:
        return Fail(result.error or _server_error("The trainer ended without a model"))
    if not observed.model_saved:
        return Fail(_server_error("The model's files are missing"))
    return Succeed(result.final_step, result.trained_tokens, result.finished_at)


def _count_failed_starts(job: JobRow, observed: Observation) -> tuple[int, int]:
    """How often in a row the trainer has ended without a new step, and the last step that counted as new."""
    ended = observed.trainer_exit
    if ended is None or ended.pause_sent:
        return job.attempts, job.attempt_step
    before = 0 if observed.step > job.attempt_step else job.attempts
    attempts = before + (ATTEMPTS_PER_EXCEPTION if (ended.exit_code or 0) > 0 else 1)
    return attempts, max(observed.step, job.attempt_step)


def _describe_exit(observed: Observation) -> str:
    code = None if observed.trainer_exit is None else observed.trainer_exit.exit_code
    is_common = code is None or code < 0 or code == OUT_OF_MEMORY_EXIT_CODE
    return "repeatedly" if is_common else f"with exit code {code} each time it was started"


def _server_error(message: str) -> dict[str, Any]:
    return {"code": "server_error", "message": message, "param": None}


class TransitionWriter:
    """Writes transitions to the store, each in one transaction.

    Args:
        store: The server's database.
        data_dir: The server's directory.
    """

    def __init__(self, store: Store, data_dir: DataDirectory) -> None:
        self._store = store
        self._data_dir = data_dir

    def apply(self, job: JobRow, transition: Transition) -> bool:
        """Write a transition.

        Returns:
            False if the job has changed since it was observed; nothing is written then.
        """
        # Its id follows from the job's, so doing it again after a crash changes nothing.
        result_file = self._store_metrics(job) if isinstance(transition, Succeed) else None
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            if current is None or (current.status, current.desired_state) != (job.status, job.desired_state):
                return False
            self._write(tx, current, transition, result_file)
            if isinstance(transition, Succeed | Fail | ReleaseTrainer):
                tx.after_commit.append(partial(self._data_dir.job(job.id).remove_inputs))
        return True

    def _write(self, tx: Transaction, job: JobRow, transition: Transition, result_file: FileRow | None) -> None:
        match transition:
            case StartValidation(attempts):
                tx.jobs.update(job.id, validation_attempts=attempts)
            case Queue():
                tx.jobs.update(job.id, status="queued", validated=True)
                tx.events.append_message(job.id, "Files validated, job queued")
            case StartTrainer():
                if job.status == "queued" and job.started_at is not None:
                    tx.events.append_message(job.id, "Training resumed")
                tx.jobs.update(job.id, status="running", has_trainer=True, started_at=job.started_at or now())
            case ReleaseTrainer():
                tx.jobs.update(job.id, has_trainer=False)
            case MarkPaused(step):
                tx.jobs.update(job.id, status="paused", has_trainer=False, attempts=0, estimated_finish=None)
                tx.events.append_message(job.id, f"The job is paused at step {step}")
            case DelayRestart(attempts, attempt_step, _, cause):
                tx.jobs.update(job.id, attempts=attempts, attempt_step=attempt_step)
                if cause:
                    message = f"The trainer stopped: {cause}; it starts again"
                    tx.events.append_message(job.id, message, level="warn")
            case Fail(error):
                ended = {"status": "failed", "has_trainer": False, "finished_at": now(), "estimated_finish": None}
                tx.jobs.update(job.id, error=error, **ended)
                tx.events.append_message(job.id, f"The job failed: {error['message']}", level="error")
            case Succeed():
                self._write_success(tx, job, transition, result_file)
            case Wait() | PauseTrainer() | TerminateTrainer():
                pass

    def _write_success(self, tx: Transaction, job: JobRow, success: Succeed, result_file: FileRow | None) -> None:
        if result_file is not None:
            tx.files.add(result_file)
        tx.jobs.update(
            job.id,
            status="succeeded",
            has_trainer=False,
            fine_tuned_model=job.model_name,
            final_step=success.step,
            trained_tokens=success.trained_tokens,
            finished_at=success.finished_at or now(),
            estimated_finish=None,
            result_file=None if result_file is None else result_file.id,
        )
        tx.events.append_message(job.id, f"New fine-tuned model created: {job.model_name}")
        tx.events.append_message(job.id, "The job has successfully completed")

    def _store_metrics(self, job: JobRow) -> FileRow | None:
        """The job's metrics as a stored file."""
        source = self._data_dir.job(job.id).metrics_file
        if not source.is_file():
            return None
        file_id = "file-" + job.id.removeprefix("ftjob-")
        incoming = new_body_path(self._data_dir.incoming)
        content = source.read_bytes()
        incoming.write_bytes(content)
        rename_durably(incoming, self._data_dir.file(file_id))
        return FileRow(
            id=file_id,
            owner=job.owner,
            filename="step_metrics.csv",
            purpose=RESULT_PURPOSE,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            created_at=now(),
        )

    def forget_validation_attempt(self, job_id: str) -> None:
        """Do not count a validation that the stopping server has ended itself."""
        with self._store.write() as tx:
            job = tx.jobs.get(job_id)
            if job is not None and job.status == "validating_files":
                tx.jobs.update(job_id, validation_attempts=max(0, job.validation_attempts - 1))

    def requeue(self, job: JobRow) -> None:
        """Put the job of a trainer that the stopping server has paused back into the queue, unless it has a result."""
        directory = self._data_dir.job(job.id)
        if directory.read_result() is not None:
            return
        import_output(self._store, job, directory)
        with self._store.write() as tx:
            current = tx.jobs.get(job.id)
            if current is not None and current.status == "running":
                status = "paused" if current.desired_state == "pause" else "queued"
                tx.jobs.update(job.id, status=status, has_trainer=False, estimated_finish=None)
                tx.events.append_message(job.id, "The server is stopping; training resumes when it starts again")
