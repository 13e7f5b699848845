"""Which transition follows from a job's row and an observation; no files, no processes, no database."""

from __future__ import annotations

from typing import Any

import pytest

from ftpipe.server.jobs.transitions import (
    ATTEMPTS_PER_EXCEPTION,
    MAX_FAILED_STARTS,
    MAX_RESTART_DELAY_SECONDS,
    OUT_OF_MEMORY_HINT,
    DelayRestart,
    Fail,
    MarkPaused,
    Observation,
    PauseTrainer,
    Queue,
    ReleaseTrainer,
    StartTrainer,
    StartValidation,
    Succeed,
    TerminateTrainer,
    TrainerExit,
    Transition,
    Wait,
    decide,
)
from ftpipe.server.jobs.validation_process import ValidationCrash, ValidationResult
from ftpipe.server.storage import JobRow
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE, JobResult

INVALID = {"code": "invalid_training_file", "message": "line 2: bad", "param": "training_file"}
SUCCESS = JobResult(succeeded=True, error=None, trained_tokens=90, final_step=6, finished_at=1000)
REPORTED_FAILURE = JobResult(succeeded=False, error=INVALID, trained_tokens=0, final_step=0, finished_at=1000)
NO_MODEL = JobResult(succeeded=True, error=None, trained_tokens=90, final_step=None, finished_at=1000)


def job(**changes: Any) -> JobRow:
    values: dict[str, Any] = {
        "id": "ftjob-1",
        "owner": "local",
        "created_at": 1,
        "model": "gpt-4o-mini",
        "base": "smollm2-135m-instruct",
        "model_name": "ft:gpt-4o-mini:local::1",
        "method": "supervised",
        "training_file": "file-1",
        "validation_file": None,
        "suffix": None,
        "seed": 1,
        "requested_hyperparameters": {},
        "status": "running",
        **changes,
    }
    return JobRow(**values)


def server_error(message: str) -> Fail:
    return Fail({"code": "server_error", "message": message, "param": None})


CRASH = ValidationCrash("it took longer than 5 seconds")
UNCHECKED = "The files could not be checked"
KILLED = TrainerExit(exit_code=-9)
OOM_KILLED = TrainerExit(exit_code=-9, was_oom_killed=True)
NO_MEMORY = TrainerExit(exit_code=OUT_OF_MEMORY_EXIT_CODE)
LIKELY = "it was killed, most likely because the memory ran out"
CERTAIN = "the memory ran out"
CRASHED = TrainerExit(exit_code=1)
NOTHING = Observation()
NO_DIRECTORY = server_error("The job directory is missing")


@pytest.mark.parametrize(
    ("row", "observed", "expected"),
    [
        # Validation
        ({"status": "validating_files"}, NOTHING, Wait()),
        ({"status": "validating_files"}, Observation(), Wait()),
        ({"status": "validating_files"}, Observation(validator_free=True), StartValidation(1)),
        ({"status": "validating_files", "validation_attempts": 1}, Observation(validation_running=True), Wait()),
        (
            {"status": "validating_files", "validation_attempts": 1},
            Observation(validation=CRASH, validator_free=True),
            StartValidation(11),
        ),
        ({"status": "validating_files", "validation_attempts": 20}, Observation(validation_running=True), Wait()),
        (
            {"status": "validating_files", "validation_attempts": 11},
            Observation(validation=CRASH, validator_free=True),
            Fail({**INVALID, "message": f"{UNCHECKED}: {CRASH.reason}, as in an earlier attempt"}),
        ),
        (
            {"status": "validating_files", "validation_attempts": 19},
            Observation(validator_free=True),
            StartValidation(20),
        ),
        (
            {"status": "validating_files", "validation_attempts": 20},
            Observation(validator_free=True),
            Fail({**INVALID, "message": f"{UNCHECKED}: the server was killed each time"}),
        ),
        ({"status": "validating_files"}, Observation(validation=ValidationResult(None)), Queue()),
        ({"status": "validating_files"}, Observation(validation=ValidationResult(INVALID)), Fail(INVALID)),
        (
            {"status": "validating_files"},
            Observation(directory_exists=False),
            server_error("The job directory is missing"),
        ),
        # The queue
        ({"status": "queued"}, NOTHING, Wait()),
        ({"status": "queued"}, Observation(slot_available=True), StartTrainer()),
        ({"status": "queued", "has_trainer": True}, Observation(slot_available=True), Wait()),
        ({"status": "queued"}, Observation(directory_exists=False), NO_DIRECTORY),
        # A running trainer
        ({}, Observation(trainer_alive=True), Wait()),
        ({}, Observation(trainer_alive=True, result=SUCCESS, model_saved=True), Wait()),
        ({"desired_state": "pause"}, Observation(trainer_alive=True), PauseTrainer()),
        # A trainer that left a result
        ({}, Observation(result=SUCCESS, model_saved=True), Succeed(6, 90, 1000)),
        ({"desired_state": "pause"}, Observation(result=SUCCESS, model_saved=True), Succeed(6, 90, 1000)),
        ({}, Observation(result=SUCCESS), server_error("The model's files are missing")),
        ({}, Observation(result=NO_MODEL), server_error("The trainer ended without a model")),
        ({}, Observation(result=REPORTED_FAILURE), Fail(INVALID)),
        # A trainer that ended without one
        ({"desired_state": "pause"}, Observation(trainer_exit=TrainerExit(0, pause_sent=True), step=4), MarkPaused(4)),
        ({"desired_state": "pause"}, Observation(step=4), MarkPaused(4)),
        ({}, Observation(trainer_exit=TrainerExit(0, pause_sent=True), step=4), StartTrainer()),
        ({}, NOTHING, StartTrainer()),
        ({}, Observation(restart_delayed=True), Wait()),
        ({}, Observation(trainer_exit=KILLED), DelayRestart(1, 0, 0.25, LIKELY)),
        ({"attempts": 3}, Observation(trainer_exit=KILLED), DelayRestart(4, 0, 1.0, LIKELY)),
        (
            {"attempts": 3, "attempt_step": 5},
            Observation(trainer_exit=KILLED, step=6),
            DelayRestart(1, 6, 0.25, LIKELY),
        ),
        ({}, Observation(trainer_exit=CRASHED), DelayRestart(ATTEMPTS_PER_EXCEPTION, 0, 1.0)),
        (
            {"attempts": 9},
            Observation(trainer_exit=KILLED),
            server_error(f"The trainer stopped repeatedly at step 0: {LIKELY}; {OUT_OF_MEMORY_HINT}"),
        ),
        (
            {"attempts": 9},
            Observation(trainer_exit=OOM_KILLED),
            server_error(f"The trainer stopped repeatedly at step 0: {CERTAIN}; {OUT_OF_MEMORY_HINT}"),
        ),
        (
            {"attempts": 9, "attempt_step": 2},
            Observation(trainer_exit=NO_MEMORY, step=2),
            server_error(f"The trainer stopped repeatedly at step 2: {CERTAIN}; {OUT_OF_MEMORY_HINT}"),
        ),
        (
            {"attempts": 9},
            Observation(trainer_exit=TrainerExit(exit_code=-15)),
            server_error("The trainer stopped repeatedly at step 0"),
        ),
        (
            {"attempts": 8, "attempt_step": 3},
            Observation(trainer_exit=CRASHED, step=3),
            server_error("The trainer stopped with exit code 1 each time it was started at step 3"),
        ),
        # Jobs that have ended
        ({"status": "cancelled"}, Observation(trainer_alive=True), TerminateTrainer()),
        ({"status": "cancelled"}, NOTHING, ReleaseTrainer()),
        ({"status": "cancelled"}, Observation(result=SUCCESS, model_saved=True), ReleaseTrainer()),
        ({"status": "paused"}, Observation(slot_available=True), Wait()),
    ],
)
def test_decide(row: dict[str, Any], observed: Observation, expected: Transition) -> None:
    assert decide(job(**row), observed) == expected


def test_decide_bounds_failed_starts() -> None:
    """A trainer that is killed without a new step is started a bounded number of times, and ever later."""
    row, delays = job(), []
    while isinstance(transition := decide(row, Observation(trainer_exit=KILLED)), DelayRestart):
        delays.append(transition.delay_seconds)
        row = job(attempts=transition.attempts, attempt_step=transition.attempt_step)
    assert isinstance(transition, Fail)
    assert len(delays) == MAX_FAILED_STARTS - 1
    assert delays == sorted(delays)
    assert delays[-1] <= MAX_RESTART_DELAY_SECONDS
