"""``ftpipe doctor``: a line per check with a hint, one JSON document, exit code 1 if a check fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.errors import TrainingNotAvailableError
from ftpipe.providers.jobs import PROBE_FILE
from tests.cli.cli_runner import CommandResult
from tests.fakes.scripted_server import Fault, refusal
from tests.faults.endpoint import FaultEndpoint
from tests.faults.environment import KEY, FaultEnvironment

FILES, JOBS, MODELS, CREATE = "GET /files", "GET /fine_tuning/jobs", "GET /models", "POST /fine_tuning/jobs"


@pytest.fixture
def endpoint() -> Iterator[FaultEndpoint]:
    """A provider with scripted responses."""
    with FaultEndpoint() as running:
        yield running


@pytest.fixture
def doctor(
    endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CommandResult]:
    """Run ``ftpipe doctor --online`` in a configured folder; additional keys go into the profile."""
    monkeypatch.setenv("X_API_KEY", KEY)
    monkeypatch.setenv("FTPIPE_TRUSTED_HOSTS", f"{endpoint.base_url} http://127.0.0.1:9")

    def call(*argv: str, **profile: Any) -> CommandResult:
        table = {"base_url": endpoint.base_url, "key_env": "X_API_KEY", **profile}
        lines = [
            f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
            for name, value in table.items()
        ]
        text = "\n".join(['provider = "test"', 'model = "gpt-4.1-mini-2025-04-14"', "[providers.test]", *lines])
        Path("ftpipe.toml").write_text(text + "\n")
        code = execute(root, ("doctor", "--online", *argv), CliContext())
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return call


def checks(ran: CommandResult) -> dict[str, dict[str, str]]:
    """The provider's checks in the document, by name."""
    return {check["name"]: check for check in ran.document["checks"] if check["name"].startswith("test ")}


def test_doctor_online_reports_each_check(doctor: Callable[..., CommandResult], endpoint: FaultEndpoint) -> None:
    """Exit 0; a line each for clock, key, jobs, training and base, and nothing was created."""
    endpoint.seed_job()
    ran = doctor("--json", probe_training=True)
    assert ran.code == 0, ran.err
    results = checks(ran)
    assert set(results) == {"test clock", "test key", "test jobs", "test training", "test base"}
    assert {check["status"] for check in results.values()} == {"ok"}
    assert "allowed" in results["test training"]["message"]
    assert len(endpoint.jobs) == 1
    assert endpoint.bodies == [{"model": "gpt-4.1-mini-2025-04-14", "training_file": PROBE_FILE}]


def test_doctor_reports_missing_training_permission(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint
) -> None:
    """Row 17: ✗ with a hint, exit 1."""
    endpoint.always(CREATE, refusal(403, "training_not_available", "see the deprecations page"))
    ran = doctor(probe_training=True)
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if "test training" in line]
    assert line.startswith("✗")
    assert "--provider local" in ran.out
    assert endpoint.calls["POST /files"] == 0


def test_train_checks_permission_before_upload(tmp_path: Path, endpoint: FaultEndpoint) -> None:
    """Row 17: no file is uploaded and nothing is in the journal; a later run continues."""
    environment = FaultEnvironment(tmp_path, endpoint, profile={"probe_training": True})
    endpoint.script(CREATE, refusal(403, "training_not_available"))
    with pytest.raises(TrainingNotAvailableError):
        environment.train()
    assert not endpoint.files
    assert environment.registry.runs.latest().error  # type: ignore[union-attr]  # there is one
    assert environment.resume().state == "registered"
    assert environment.counts() == {"files": 1, "jobs": 1, "models": 1, "costs": 1}
    environment.close()


@pytest.mark.parametrize(
    ("profile", "fault", "word"),
    [
        ({}, None, "only known when a job is created"),
        ({"new_customers": False}, None, "only organizations that have trained before"),
        ({"probe_training": True}, refusal(503), "503"),
        ({"probe_training": True}, refusal(400, None, "this model is unknown"), "model"),
        (
            {"probe_training": True},
            Fault(body=b'{"id": "ftjob-7", "status": "queued"}', executed=False),
            "cancelled at once",
        ),
    ],
    ids=["not asked", "closed to new ones", "trouble", "another refusal", "takes anything"],
)
def test_doctor_warns_if_training_is_unknown(
    doctor: Callable[..., CommandResult],
    endpoint: FaultEndpoint,
    profile: dict[str, Any],
    fault: Fault | None,
    word: str,
) -> None:
    """Neither ✓ nor ✗ is guessed; if an endpoint accepts the probe, the job is cancelled immediately."""
    endpoint.seed_job(id="ftjob-7")
    if fault:
        endpoint.always(CREATE, fault)
    results = checks(doctor("--json", **profile))["test training"]
    assert (results["status"], "not known" in results["message"]) == ("warning", True)
    assert word in results["message"]
    assert endpoint.calls["POST /fine_tuning/jobs/{id}/cancel"] == (word == "cancelled at once")
    assert endpoint.calls[CREATE] == bool(profile.get("probe_training"))


def test_doctor_does_not_probe_a_custom_base_url(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server might not check the file first."""
    monkeypatch.setenv("X_BASE_URL", endpoint.base_url)
    ran = doctor("--json", probe_training=True, base_url="https://api.example.com/v1", base_url_env="X_BASE_URL")
    assert checks(ran)["test training"]["status"] == "warning"
    assert endpoint.calls[CREATE] == 0


def test_doctor_knows_passed_dates_without_a_request(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint
) -> None:
    """The profile's dates are enough, also for the base model."""
    day = date(2020, 1, 2).isoformat()
    ran = doctor("--json", probe_training=True, last_day_to_create=day, models_shutdown_date=day)
    assert ran.code == 1
    assert [checks(ran)[f"test {what}"]["status"] for what in ("training", "base")] == ["error", "error"]
    assert endpoint.calls[CREATE] == 0


def test_doctor_warns_about_a_near_shutdown(doctor: Callable[..., CommandResult], endpoint: FaultEndpoint) -> None:
    """The endpoint's date is used before the profile's."""
    soon = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
    endpoint.always(
        "GET /models/{id}", Fault(body=f'{{"id": "m", "object": "model", "shutdown_date": "{soon}"}}'.encode())
    )
    ran = doctor("--json", models_shutdown_date="2099-01-01")
    assert ran.code == 0
    results = checks(ran)["test base"]
    assert (results["status"], soon in results["message"], "the endpoint says" in results["message"]) == (
        "warning",
        True,
        True,
    )


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "closed", [{FILES}, {JOBS}, {MODELS}, {FILES, JOBS, MODELS}], ids=lambda routes: str(len(routes))
)
def test_doctor_reports_key_permissions(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint, status: int, closed: set[str]
) -> None:
    """✗ without files or jobs; ! without models, which training does not need; each missing permission is named."""
    for route in closed:
        endpoint.always(route, refusal(status, None, "missing scopes"))
    ran = doctor("--json")
    key = checks(ran)["test key"]
    assert key["status"] == ("warning" if closed == {MODELS} else "error")
    assert ran.code == (0 if closed == {MODELS} else 1)
    assert key["hint"]
    if len(closed) == 1:
        assert f"{next(iter(closed)).rsplit('/', 1)[-1]}: " in key["message"]
    assert KEY not in ran.out + ran.err


@pytest.mark.parametrize(("skew", "state"), [(0.0, "ok"), (7200.0, "warning"), (-7200.0, "warning")])
def test_doctor_compares_the_clock(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint, skew: float, state: str
) -> None:
    """With the Date header of a response."""
    endpoint.skew = skew
    results = checks(doctor("--json"))["test clock"]
    assert results["status"] == state
    assert ("+720" in results["message"] or "-720" in results["message"] or "719" in results["message"]) == (
        state == "warning"
    )


def test_doctor_stops_if_the_provider_is_unreachable(doctor: Callable[..., CommandResult]) -> None:
    """✗ for the connection, exit 1, and no further requests."""
    for address in ("http://127.0.0.1:9/v1", "ftp://127.0.0.1/v1"):
        ran = doctor("--json", base_url=address)
        assert ran.code == 1
        assert set(checks(ran)) == {"test connection"}


def test_doctor_repairs_a_registry_without_a_key(endpoint: FaultEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 20: the mirror of the audit log is enough; the damaged file is kept."""
    folder = Path(".ftpipe")
    folder.mkdir()
    with FaultEnvironment(folder, endpoint) as environment:
        environment.train()
    environment.path.write_bytes(b"not a database" * 1000)
    assert execute(root, ("models", "list"), CliContext()) == 6
    capsys.readouterr()
    execute(root, ("doctor", "--repair", "--provider", "openai"), CliContext())
    messages = capsys.readouterr().err
    assert "the provider's jobs are not read" in messages
    assert "from the mirror of the audit log" in messages
    assert len(list(folder.glob("registry.db.damaged-*"))) == 1
    assert execute(root, ("models", "verify", "ftjob-0001"), CliContext()) == 0


def test_doctor_prints_a_hint_below_each_error(doctor: Callable[..., CommandResult], endpoint: FaultEndpoint) -> None:
    """Each line starts with ✓, – (not configured), ! or ✗; below ✗ there is an arrow with a hint."""
    endpoint.always(FILES, refusal(403))
    Path(".env").write_text("X=1\n")
    Path(".env").chmod(0o644)
    lines = doctor().out.splitlines()
    assert {line[0] for line in lines} == {"✓", "–", "!", "✗", " "}
    for line, following in itertools.pairwise(lines):
        assert line[0] != "✗" or following.strip().startswith("→")
