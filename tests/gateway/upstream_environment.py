"""What the tests of the gateway start from: a check of files in this process, data, and a client that waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob

from ftpipe.atomic_files import write_bytes
from ftpipe.gateway.file_check import REPORT_FILE, check_job_files, job_error
from ftpipe.server.jobs.validation_process import ValidationResult
from ftpipe.server.storage import JobRow
from ftpipe.training.job_directory import JobDirectory

SECONDS = 60
"""The longest wait; only a failing test takes it."""
MODEL = "gpt-4.1-mini-2025-04-14"


class CheckInProcess:
    """The check of a job's files, in this process and at once."""

    def __init__(self, job: JobRow, directory: JobDirectory, *, target: str) -> None:
        validation = directory.validation_file if job.validation_file else None
        fields = (job.method, job.base, job.requested_hyperparameters, directory.training_file, validation)
        report = check_job_files(target, {}, *fields)
        write_bytes(directory.path / REPORT_FILE, report.model_dump_json().encode())
        self._error = job_error(report)

    def poll(self) -> ValidationResult:
        """The result."""
        return ValidationResult(self._error or None)

    def stop(self) -> None:
        """Nothing runs."""


def lines(count: int = 12, bad: int = 0) -> bytes:
    """Training data."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus 7?"},
                {"role": "assistant", "content": f"{n + 7}"},
            ]
        }
        for n in range(count)
    ]
    rows += [{"messages": [{"role": "nobody", "content": "?"}]}] * bad
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def create(client: openai.OpenAI, content: bytes | None = None, **fields: Any) -> FineTuningJob:
    """Upload a file and create a job, as OpenAI's guide does."""
    file = client.files.create(file=("train.jsonl", content or lines()), purpose="fine-tune")
    return client.fine_tuning.jobs.create(**{"model": MODEL, "training_file": file.id, **fields})


def wait_for(client: openai.OpenAI, job_id: str, *statuses: str) -> FineTuningJob:
    """Poll a job until it has one of these statuses."""
    deadline = time.monotonic() + SECONDS
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in statuses:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something has happened in another thread."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
