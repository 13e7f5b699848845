"""``ftpipe status`` reads and saves nothing; ``jobs cancel``, ``pause`` and ``resume`` take the latest job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.cli.output.live import LogDisplay
from ftpipe.paths import server_dir
from ftpipe.records import Job, Run, RunSpec, RunState
from ftpipe.registry import open_registry
from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.openai_client import Fault

HOSTED = ("--provider", "openai", "--yes", "--epochs", "3")


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder with its time and content, and every folder in it."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def detached(cli: CliEnvironment) -> CliEnvironment:
    """A command line whose job was created and not read since."""
    assert cli.run("train", str(chat_file()), *HOSTED, "--detach").code == 0
    return cli


@pytest.mark.parametrize("argv", [("status",), ("status", "--watch"), ("jobs", "show", "ftjob-1")])
def test_status_of_job_that_succeeds_saves_nothing(detached: CliEnvironment, argv: tuple[str, ...]) -> None:
    """The model is shown with what it cost, and `ftpipe resume` registers it."""
    detached.server.statuses = ["succeeded"]
    before = snapshot(Path(".ftpipe"))
    ran = detached.run(*argv)
    assert ran.code == 0
    assert "ft:gpt-4.1-mini-2025-04-14:org-test::1" in ran.out
    assert "for 1,200 tokens" in ran.out
    assert "ftpipe resume run-" in ran.err
    assert snapshot(Path(".ftpipe")) == before
    assert detached.run("models", "list", "--json").document["models"] == []
    assert detached.run("resume").code == 0
    assert len(detached.run("models", "list", "--json").document["models"]) == 1


def test_status_shows_new_metrics_without_saving_them(detached: CliEnvironment) -> None:
    """Those of the endpoint join those of the registry."""
    before = snapshot(Path(".ftpipe"))
    detached.run("status")
    document = detached.run("status", "--json").document
    assert [metric["step"] for metric in document["metrics"]] == [1, 2]
    assert (document["job"]["status"], document["run"]["state"]) == ("running", "created")
    assert snapshot(Path(".ftpipe")) == before


def test_status_without_registry_creates_none(cli: CliEnvironment) -> None:
    """No folder, no file."""
    assert cli.run("status").code == 2
    assert cli.run("status", "--registry", "elsewhere/registry.db").code == 2
    assert list(Path().iterdir()) == []


def test_status_reads_what_a_writer_has_just_committed(detached: CliEnvironment) -> None:
    """It is in the log beside the database as long as the writer is connected."""
    registry = open_registry()
    with registry.engine.connect():
        run = registry.runs.latest()
        assert run is not None
        registry.runs.save(run.model_copy(update={"state": RunState.FAILED, "error": "a reason"}))
        assert Path(".ftpipe/registry.db-wal").stat().st_size
        ran = detached.run("status", "--json")
    registry.close()
    assert ran.document["run"]["error"] == "a reason"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
def test_status_works_in_a_read_only_folder(detached: CliEnvironment) -> None:
    folder = Path(".ftpipe")
    folder.chmod(0o500)
    try:
        assert detached.run("status").code == 8
    finally:
        folder.chmod(0o700)


def test_status_does_not_start_the_embedded_server(capsys: pytest.CaptureFixture[str]) -> None:
    """Its jobs do not change while it does not run: the last known status is the status."""
    endpoint = f"local:{server_dir()}"
    job = Job(
        id="ftjob-1", endpoint=endpoint, provider="local", status="running", model="m", training_file="f", created_at=1
    )
    run = Run(
        id="run-1",
        spec=RunSpec(provider="local", data=Path("a.jsonl"), model="m"),
        endpoint=endpoint,
        state=RunState.CREATED,
        created_at=1,
        dataset_sha256="0" * 64,
        job=job,
    )
    registry = open_registry()
    registry.jobs.save(job, run_id=run.id)
    registry.runs.start(run, key="k", ordinal=0)
    registry.close()
    assert execute(root, ("status",), CliContext()) == 8
    shown = capsys.readouterr()
    assert "running at local" in shown.out
    assert "the embedded server is not running; this is the last known status" in shown.err
    assert "ftpipe resume run-1" in shown.err
    assert not server_dir().exists()


@pytest.mark.parametrize(("verb", "status"), [("cancel", "cancelled"), ("pause", "paused"), ("resume", "running")])
def test_jobs_control_takes_the_latest_job(cli: CliEnvironment, verb: str, status: str) -> None:
    """A run that has no job yet does not stand in the way."""
    cli.server.statuses = ["running"]
    assert "ftpipe train" in cli.run("jobs", verb).err
    cli.run("train", str(chat_file("a.jsonl")), *HOSTED, "--detach")
    cli.run("train", str(chat_file("b.jsonl", first=20)), *HOSTED, "--detach")
    registry = open_registry()
    run = registry.runs.latest()
    assert run is not None
    later = run.model_copy(update={"id": "run-later", "job": None, "state": RunState.PREPARED})
    registry.runs.start(later, key="later", ordinal=0)
    registry.close()
    ran = cli.run("jobs", verb)
    assert ran.code == 0
    assert ran.out.split() == ["ftjob-2", status]


@pytest.mark.parametrize(
    ("module", "argv"),
    [("ftpipe.cli.output.run", ("resume",)), ("ftpipe.cli.output.live", ("status", "--watch"))],
    ids=["resume", "status"],
)
def test_display_of_interrupted_job_has_all_steps(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch, module: str, argv: tuple[str, ...]
) -> None:
    """Also those that were saved before the interruption."""
    cli.server.statuses = ["running"]
    cli.run("train", str(chat_file()), *HOSTED, "--timeout", "0")
    saved = [metric["step"] for metric in cli.run("status", "--json").document["metrics"]]
    displays: list[LogDisplay] = []

    def make_display(context: CliContext) -> LogDisplay:
        displays.append(LogDisplay(context))
        return displays[-1]

    monkeypatch.setattr(f"{module}.make_display", make_display)
    cli.server.statuses = ["running", "succeeded"]
    assert cli.run(*argv).code == 0
    steps = [metric.step for metric in displays[0].metrics]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > len(saved) > 0


@pytest.mark.parametrize(("status", "is_pending"), [("running", True), ("paused", False), ("succeeded", False)])
def test_jobs_pause_of_running_job_says_that_it_was_requested(
    detached: CliEnvironment, status: str, is_pending: bool
) -> None:
    """The embedded server answers ``running`` until the current step is done."""
    job = next(iter(detached.server.stored_jobs.values()))
    model = "ft:m" if status == "succeeded" else None
    response = job.model_copy(update={"status": status, "fine_tuned_model": model})
    detached.server.fail_next("jobs.pause", Fault(response=response))
    ran = detached.run("jobs", "pause")
    assert ran.code == 0
    assert ("the pause was requested" in ran.err) == is_pending
