"""Jobs as the API returns them."""

from __future__ import annotations

import pytest

from ftpipe.server.api.serializers import serialize_job
from ftpipe.server.clock import now
from ftpipe.server.storage import JobRow


def job_row(status: str, estimated_finish: int | None) -> JobRow:
    return JobRow(
        id="ftjob-1",
        owner="local",
        created_at=1,
        model="m",
        base="m",
        model_name="ft:m:local::1",
        method="supervised",
        training_file="file-1",
        validation_file=None,
        suffix=None,
        seed=1,
        requested_hyperparameters={},
        status=status,
        pause_reason="requested" if status == "paused" else None,
        estimated_finish=estimated_finish,
    )


@pytest.mark.parametrize(
    ("status", "seconds", "is_shown"),
    [("running", 100, True), ("running", 0, False), ("running", -100, False), ("queued", 100, False)],
)
def test_estimated_finish_is_in_the_future_of_a_running_job(status: str, seconds: int, is_shown: bool) -> None:
    """OpenAI's description: null if the job is not running; a time that has passed would be wrong."""
    finish = now() + seconds
    assert serialize_job(job_row(status, finish))["estimated_finish"] == (finish if is_shown else None)


@pytest.mark.parametrize("status", ["validating_files", "queued", "running", "succeeded", "failed", "cancelled"])
def test_job_status_is_that_of_the_api(status: str) -> None:
    """Only a paused job has something that the API cannot say."""
    job = serialize_job(job_row(status, None))
    assert job["status"] == status
    assert "x_ftpipe" not in job
    paused = serialize_job(job_row("paused", None))
    assert (paused["status"], paused["x_ftpipe"]) == ("queued", {"paused": True, "reason": "requested"})
