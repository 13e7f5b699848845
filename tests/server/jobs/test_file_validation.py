"""The check of a job's files: what is an error of the job, and what only costs a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftpipe.server.jobs.file_validation import validate_job_files
from ftpipe.training.batching import BadRows
from ftpipe.training.job_directory import JobDirectory
from tests.dataset.samples import chats, write


def check(folder: Path, *rows: dict[str, Any], count: int = 11, **hyperparameters: Any) -> dict[str, Any]:
    """The error of a job with some good rows and these."""
    directory = JobDirectory(folder)
    write(directory.training_file, [*chats(count), *rows])
    return validate_job_files(directory.training_file, None, "supervised", "smollm2-135m-instruct", hyperparameters)


BAD = {"messages": [{"role": "costumer", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_validate_job_files_refuses_bad_row(tmp_path: Path) -> None:
    error = check(tmp_path, BAD)
    assert error["code"] == "invalid_training_file" and error["message"].startswith("line 12, messages[0].role:")


def test_validate_job_files_leaves_bad_rows_out_if_the_job_allows_it(tmp_path: Path) -> None:
    """The trainer reads which ones, and why."""
    assert check(tmp_path, BAD, skip_bad_rows=True) == {}
    bad_rows = BadRows.load(JobDirectory(tmp_path).bad_rows_file, "training", skip=True)
    assert bad_rows.known == {12: "FT205 unknown-role"}
    assert BadRows.load(JobDirectory(tmp_path).bad_rows_file, "training", skip=False).known == {}


def test_validate_job_files_refuses_what_is_wrong_with_the_whole_file(tmp_path: Path) -> None:
    """Leaving out rows does not help there."""
    assert check(tmp_path, count=0, skip_bad_rows=True)["param"] == "training_file"
    assert check(tmp_path, skip_bad_rows=True) == {}
