"""``ftpipe doctor``: a line for each thing with what to do, one JSON document, 1 where something is broken."""

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
from ftpipe.doctor.offline_checks import check_disk, check_packages, check_python
from ftpipe.errors import TrainingNotAvailableError
from ftpipe.providers.jobs import PROBE_FILE
from tests.cli.cli_runner import CommandResult
from tests.faults.endpoint import Fault, FaultEndpoint, refusal
from tests.faults.environment import KEY, FaultEnvironment

FILES, JOBS, MODELS, CREATE = "GET /files", "GET /fine_tuning/jobs", "GET /models", "POST /fine_tuning/jobs"


@pytest.fixture
def endpoint() -> Iterator[FaultEndpoint]:
    """A provider that answers as it is told."""
    with FaultEndpoint() as running:
        yield running


@pytest.fixture
def doctor(
    endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CommandResult]:
    """Type ``ftpipe doctor --online`` in a folder that is configured for it; further keys go into its profile."""
    monkeypatch.setenv("X_API_KEY", KEY)

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
    """What the document says about the provider, by name."""
    return {check["name"]: check for check in ran.document["checks"] if check["name"].startswith("test ")}


def test_a_provider_in_order_is_told_line_by_line(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint
) -> None:
    """Exit 0; clock, key, jobs, training and base have a line each, and nothing was created."""
    endpoint.seed_job()
    ran = doctor("--json", probe_training=True)
    assert ran.code == 0, ran.err
    found = checks(ran)
    assert set(found) == {"test clock", "test key", "test jobs", "test training", "test base"}
    assert {check["status"] for check in found.values()} == {"ok"}
    assert "allowed" in found["test training"]["message"]
    assert len(endpoint.jobs) == 1
    assert endpoint.bodies == [{"model": "gpt-4.1-mini-2025-04-14", "training_file": PROBE_FILE}]


def test_an_organization_that_may_not_train_is_told_before_anything_is_uploaded(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint
) -> None:
    """Row 17: ✗ with what to do, exit 1."""
    endpoint.always(CREATE, refusal(403, "training_not_available", "see the deprecations page"))
    ran = doctor(probe_training=True)
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if "test training" in line]
    assert line.startswith("✗")
    assert "--provider local" in ran.out
    assert endpoint.calls["POST /files"] == 0


def test_training_is_told_before_the_upload_by_train_as_well(tmp_path: Path, endpoint: FaultEndpoint) -> None:
    """Row 17: the pipeline asks first: no file is at the endpoint, no intent in the journal; later it goes on."""
    bench = FaultEnvironment(tmp_path, endpoint, profile={"probe_training": True})
    endpoint.script(CREATE, refusal(403, "training_not_available"))
    with pytest.raises(TrainingNotAvailableError):
        bench.train()
    assert not endpoint.files
    assert bench.registry.runs.latest().error  # type: ignore[union-attr]  # there is one
    assert bench.resume().state == "registered"
    assert bench.counts() == {"files": 1, "jobs": 1, "models": 1, "costs": 1}
    bench.close()


@pytest.mark.parametrize(
    ("profile", "fault", "word"),
    [
        ({}, None, "only known when a job is created"),
        ({"new_customers": False}, None, "only organizations that trained before"),
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
def test_what_cannot_be_known_is_said_so(
    doctor: Callable[..., CommandResult],
    endpoint: FaultEndpoint,
    profile: dict[str, Any],
    fault: Fault | None,
    word: str,
) -> None:
    """Neither ✓ nor ✗ is guessed; an endpoint that takes a job on no file has it cancelled at once."""
    endpoint.seed_job(id="ftjob-7")
    if fault:
        endpoint.always(CREATE, fault)
    found = checks(doctor("--json", **profile))["test training"]
    assert (found["status"], "not known" in found["message"]) == ("warn", True)
    assert word in found["message"]
    assert endpoint.calls["POST /fine_tuning/jobs/{id}/cancel"] == (word == "cancelled at once")
    assert endpoint.calls[CREATE] == bool(profile.get("probe_training"))


def test_an_address_of_ones_own_is_not_asked_for_a_job(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind another base URL may not look at the file first."""
    monkeypatch.setenv("X_BASE_URL", endpoint.base_url)
    ran = doctor("--json", probe_training=True, base_url="https://api.example.com/v1", base_url_env="X_BASE_URL")
    assert checks(ran)["test training"]["status"] == "warn"
    assert endpoint.calls[CREATE] == 0


def test_a_last_day_that_is_over_is_known_without_asking(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint
) -> None:
    """The dated table is enough, and the base's end is told too."""
    day = date(2020, 1, 2).isoformat()
    ran = doctor("--json", probe_training=True, last_day_to_create=day, models_shutdown_date=day)
    assert ran.code == 1
    assert [checks(ran)[f"test {what}"]["status"] for what in ("training", "base")] == ["bad", "bad"]
    assert endpoint.calls[CREATE] == 0


def test_a_base_near_its_end_is_a_warning(doctor: Callable[..., CommandResult], endpoint: FaultEndpoint) -> None:
    """The endpoint's own date wins over the table's."""
    soon = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
    endpoint.always(
        "GET /models/{id}", Fault(body=f'{{"id": "m", "object": "model", "shutdown_date": "{soon}"}}'.encode())
    )
    ran = doctor("--json", models_shutdown_date="2099-01-01")
    assert ran.code == 0
    found = checks(ran)["test base"]
    assert (found["status"], soon in found["message"], "the endpoint says" in found["message"]) == ("warn", True, True)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "closed", [{FILES}, {JOBS}, {MODELS}, {FILES, JOBS, MODELS}], ids=lambda routes: str(len(routes))
)
def test_the_scope_of_a_key_is_told(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint, status: int, closed: set[str]
) -> None:
    """Files and jobs are needed, so ✗; a key that cannot list models still trains, so !; each refused part is named."""
    for route in closed:
        endpoint.always(route, refusal(status, None, "missing scopes"))
    ran = doctor("--json")
    key = checks(ran)["test key"]
    assert key["status"] == ("warn" if closed == {MODELS} else "bad")
    assert ran.code == (0 if closed == {MODELS} else 1)
    assert key["hint"]
    if len(closed) == 1:
        assert f"{next(iter(closed)).rsplit('/', 1)[-1]}: " in key["message"]
    assert KEY not in ran.out + ran.err


@pytest.mark.parametrize(("skew", "state"), [(0.0, "ok"), (7200.0, "warn"), (-7200.0, "warn")])
def test_the_clock_is_compared_with_the_endpoints(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint, skew: float, state: str
) -> None:
    """By the Date header of any answer."""
    endpoint.skew = skew
    found = checks(doctor("--json"))["test clock"]
    assert found["status"] == state
    assert ("+720" in found["message"] or "-720" in found["message"] or "719" in found["message"]) == (state == "warn")


def test_a_provider_that_is_not_there_is_one_line_and_not_waited_for(doctor: Callable[..., CommandResult]) -> None:
    """A closed port and an unresolvable name: ✗ on the clock's line, exit 1, and nothing more is asked."""
    for address in ("http://127.0.0.1:9/v1", "ftp://127.0.0.1/v1"):
        ran = doctor("--json", base_url=address)
        assert ran.code == 1
        assert set(checks(ran)) == {"test clock"}


def test_a_registry_is_repaired_without_a_key(endpoint: FaultEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 20: the mirror of the audit log is enough; the damaged file is kept."""
    place = Path(".ftpipe")
    place.mkdir()
    with FaultEnvironment(place, endpoint) as bench:
        bench.train()
    bench.path.write_bytes(b"not a database" * 1000)
    assert execute(root, ("models", "list"), CliContext()) == 6
    capsys.readouterr()
    execute(root, ("doctor", "--repair", "--provider", "openai"), CliContext())
    said = capsys.readouterr().err
    assert "skipping openai" in said
    assert "from the mirror of the audit log" in said
    assert len(list(place.glob("registry.db.damaged-*"))) == 1
    assert execute(root, ("models", "verify", "ftjob-0001"), CliContext()) == 0


def test_every_line_is_marked_and_every_fault_has_a_next_step(
    doctor: Callable[..., CommandResult], endpoint: FaultEndpoint
) -> None:
    """✓, ! or ✗ first; under ✗ an arrow with what to do; the verdict counts them."""
    endpoint.always(FILES, refusal(403))
    Path(".env").write_text("X=1\n")
    Path(".env").chmod(0o644)
    lines = doctor().out.splitlines()
    assert {line[0] for line in lines} == {"✓", "!", "✗", " "}
    for line, following in itertools.pairwise(lines):
        assert line[0] != "✗" or following.strip().startswith("→")


def test_what_is_missing_or_full_is_named(tmp_path: Path) -> None:
    """Versions, and the room at a place that does not exist yet."""
    assert check_python().status == "ok"
    assert {finding.name for finding in check_packages()} == {"packages", "local"}
    assert "free" in check_disk("disk", tmp_path / "later" / "still").message
