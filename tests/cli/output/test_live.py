"""The display of a running pipeline: what went wrong is said once."""

from __future__ import annotations

import io

import pytest

from ftpipe.cli.context import CliContext
from ftpipe.cli.output.live import LiveDisplay, LogDisplay
from ftpipe.errors import JobFailedError
from ftpipe.records import Event, Job, JobError

RUNNING = Job(
    id="ftjob-1",
    endpoint="e",
    provider="local",
    status="running",
    model="m",
    training_file="file-1",
    created_at=0,
)
FAILED = RUNNING.model_copy(
    update={"status": "failed", "error": JobError(code="invalid_training_file", message="Line 3 has no role.")}
)


def error_event(message: str) -> Event:
    """An event that the endpoint marks as an error."""
    return Event(id="ev-1", created_at=0, level="error", type="message", message=message)


def test_display_leaves_reason_of_failed_job_to_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The error that ends the command has it; an event that says something else is shown."""
    with pytest.raises(JobFailedError), LogDisplay(CliContext()) as display:
        display.on_event(error_event("The job failed: Line 3 has no role."))
        display.on_event(error_event("The disk is nearly full."))
        display.on_job(FAILED)
        raise JobFailedError("ftjob-1 failed (invalid_training_file): Line 3 has no role.")
    err = capsys.readouterr().err
    assert "Line 3 has no role" not in err
    assert err.count("The disk is nearly full.") == 1


def test_display_shows_error_of_job_that_continues(capsys: pytest.CaptureFixture[str]) -> None:
    """At once, not when the job has ended."""
    with LogDisplay(CliContext()) as display:
        display.on_event(error_event("A worker was lost; starting again."))
        display.on_job(RUNNING)
        assert "A worker was lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "percentage"), [("Downloading SmolLM2: 40 % of 94 MB", 40), ("Converting the weights", None)]
)
def test_display_has_a_bar_before_the_first_step(message: str, percentage: int | None) -> None:
    """With its percentage if the event has one; else it moves."""
    from rich.console import Console
    from rich.progress_bar import ProgressBar

    display = LiveDisplay(CliContext(no_color=True))
    display.on_stage("poll")
    display.on_job(RUNNING)
    display.on_event(Event(id="ev-1", created_at=0, level="info", type="message", message=message))
    console = Console(width=100, no_color=True, record=True, file=io.StringIO())
    console.print(display.picture())
    assert message in console.export_text()
    bars = [cell for column in display.waiting_bar().columns for cell in column.cells if isinstance(cell, ProgressBar)]
    assert [(bar.completed, bar.pulse) for bar in bars] == [(percentage or 0, percentage is None)]


@pytest.mark.parametrize(("status", "mark"), [("succeeded", "✓"), ("failed", "✗"), ("cancelled", "✗")])
def test_display_marks_the_end_of_a_job(status: str, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    with LogDisplay(CliContext()) as display:
        display.on_stage("poll")
        display.on_job(RUNNING.model_copy(update={"status": status}))
        display.on_stage("register")
        assert f"{mark} wait for the job: {status}" in capsys.readouterr().err


def test_display_says_once_how_to_continue_a_paused_job(capsys: pytest.CaptureFixture[str]) -> None:
    paused = RUNNING.model_copy(update={"status": "paused"})
    with LogDisplay(CliContext()) as display:
        display.on_stage("poll")
        for job in (RUNNING, paused, paused):
            display.on_job(job)
    assert capsys.readouterr().err.count("continue with `ftpipe jobs resume ftjob-1`") == 1
