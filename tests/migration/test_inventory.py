"""``ftpipe models inventory`` over an account of 40 fine-tunes: complete, read only, adopted, and in every format."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import time_machine

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from tests.fakes.account_contents import MAIN, MAIN_MODEL, MODELS_WITHOUT_JOB, TUNES
from tests.fakes.openai_account import OpenAIAccount
from tests.fakes.scripted_server import Fault, refusal
from tests.migration.conftest import KEY, AccountUser

pytestmark = pytest.mark.usefixtures("no_fsync")

DAY = "2026-12-20"
INVENTORY = ("models", "inventory")


def taken(user: AccountUser, *argv: str) -> Any:
    return user.document(*INVENTORY, *argv)["inventory"]


@dataclass(frozen=True)
class OneRun:
    """One run with all outputs, which several tests look at."""

    account: OpenAIAccount
    digest_before: str
    inventory: Any
    rows: list[dict[str, str]]
    calendar: bytes


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneRun]:
    """An inventory of the untouched account, on a day on which its models still answer."""
    folder = tmp_path_factory.mktemp("inventory")
    table, calendar, out = folder / "models.csv", folder / "a.ics", io.StringIO()
    argv = [*INVENTORY, "--json", "--csv", str(table), "--calendar", str(calendar)]
    argv += ["--registry", str(folder / "registry.db"), "--provider", "openai", "--quiet"]
    with OpenAIAccount() as account, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("OPENAI_BASE_URL", account.base_url)
        patch.setenv("FTPIPE_HOME", str(folder / "home"))
        patch.chdir(folder)
        before = account.state_digest()
        with time_machine.travel(f"{DAY}T12:00:00+00:00", tick=True), contextlib.redirect_stdout(out):
            assert execute(root, argv, CliContext()) == 0
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        yield OneRun(account, before, json.loads(out.getvalue())["inventory"], rows, calendar.read_bytes())


def test_inventory_is_complete_and_changes_nothing(one_run: OneRun) -> None:
    """All pages, with every oddity of the account, and not one request that is not a GET."""
    account, inventory = one_run.account, one_run.inventory
    jobs, models = inventory["jobs"], {model["id"]: model for model in inventory["models"]}
    assert [job["id"] for job in jobs] == [tune.id for tune in sorted(TUNES, key=lambda one: one.day, reverse=True)]
    assert len(jobs) == 40
    assert {job["status"] for job in jobs} > {"succeeded", "failed", "cancelled", "paused", "pending_review"}
    assert {file["id"] for file in inventory["files"]} == account.files.keys()
    made = {job["fine_tuned_model"] for job in account.jobs.values()} - {None}
    points = {name for model in models.values() for name in model["checkpoints"]}
    listed = {name for name in account.models if name.startswith(("ft:", "curie:"))}
    assert models.keys() == (made | listed) - points
    assert points == {
        *(point["fine_tuned_model_checkpoint"] for points in account.account.checkpoints.values() for point in points),
        MODELS_WITHOUT_JOB[2],
    }
    assert inventory["problems"] == []
    assert account.changes == []
    assert account.paid == []
    assert account.state_digest() == one_run.digest_before


def test_inventory_knows_state_dates_data_and_costs(one_run: OneRun) -> None:
    account, inventory = one_run.account, one_run.inventory
    by_oddity = {
        word: next(model for model in inventory["models"] if model["id"] == tune.model)
        for tune in TUNES
        for word in tune.oddities.split()
        if tune.status == "succeeded" and word != "no-name"
    }
    assert by_oddity["model-deleted"]["state"] == "missing"
    assert by_oddity["stale"]["state"] == "shut down"
    assert by_oddity["file-foreign"]["job"]["training_file_state"] == "missing"
    assert by_oddity["file-foreign"]["tokens_are_estimated"] is False
    assert by_oddity["no-tokens"]["tokens_are_estimated"] is True
    assert by_oddity["no-tokens"]["trained_tokens"] > 0
    assert len(by_oddity["validation-deleted"]["job"]["missing_files"]) == 1
    assert by_oddity["nulls"]["job"]["training_file_state"] == "available"
    assert by_oddity["extra-keys"]["shutdown_date"] is None  # a base without a date
    main = by_oddity["many-events"]
    assert (main["shutdown_date"], main["shutdown_source"], main["days_left"]) == ("2027-01-14", "endpoint", 25)
    assert by_oddity["file-deleted"]["shutdown_source"] == "catalogue"  # its base is no longer listed
    assert by_oddity["error-nulls"]["shutdown_source"] == "endpoint, of the base"
    assert main["trained_tokens"] == account.jobs[MAIN.id]["trained_tokens"] == 145 * 180
    costs = {cost["provider"]: cost for cost in main["retraining"]}
    assert costs["openai"]["base"] == "gpt-4o-mini-2024-07-18"
    assert costs["openai"]["cost"] == pytest.approx(145 * 180 * 3 / 1e6)
    assert costs["openai"]["last_day"] == "2027-01-06"
    assert costs["nebius"]["base"] != costs["openai"]["base"]
    assert costs["local"]["cost"] == 0
    assert by_oddity["reinforcement"]["retraining"] == []  # billed by the hour
    hosts = {cost["provider"] for cost in by_oddity["dpo"]["retraining"]}
    assert {"openai", "azure", "local"} <= hosts
    assert "nebius" not in hosts  # it has no preference training


@pytest.mark.slow
def test_inventory_adopts_into_the_registry_and_twice_is_harmless(user: AccountUser) -> None:
    """Runs, jobs and models; what is deleted stays deleted, and the user's own latest run stays the latest."""
    with user.on(DAY):
        first = taken(user)
        registered = user.document("models", "list")["models"]
        jobs = user.document("jobs", "list", "--limit", "100")["jobs"]
        size = user.document("doctor")["checks"]
        again = taken(user)
        assert user.document("models", "list")["models"] == registered
        assert user.document("jobs", "list", "--limit", "100")["jobs"] == jobs
        assert [one for one in user.document("doctor")["checks"] if one["name"] == "audit log"] == [
            one for one in size if one["name"] == "audit log"
        ]
    assert again == first
    assert len(jobs) == 40
    names = {model["id"] for model in registered}
    assert names == {model["id"] for model in first["models"] if model["state"] != "missing"}
    assert {model["id"] for model in first["models"] if model["is_registered"]} == names
    main = next(model for model in registered if model["id"] == MAIN_MODEL)
    assert main["job_id"] == MAIN.id
    assert main["base_shutdown_date"] == "2027-01-14"
    assert [point["step"] for point in main["checkpoints"]] == [2, 4]
    with user.on(DAY):
        assert user.run("models", "delete", MAIN_MODEL, "--only-registry", "--yes").code == 0
        third = taken(user)
        assert user.run("models", "show", MODELS_WITHOUT_JOB[0]).code == 0
    assert [model["is_registered"] for model in third["models"] if model["id"] == MAIN_MODEL] == [False]


@pytest.mark.slow
def test_inventory_registers_a_job_that_has_ended_since(user: AccountUser) -> None:
    """Known from before as running."""
    running = next(tune for tune in TUNES if tune.status == "running")
    with user.on(DAY):
        taken(user)
        assert user.run("models", "show", running.model).code == 2
        job = user.account.jobs[running.id]
        job |= {"status": "succeeded", "fine_tuned_model": running.model, "finished_at": job["created_at"] + 9}
        user.account.models[running.model] = {"id": running.model, "object": "model", "created": 1, "owned_by": "acme"}
        taken(user)
        assert user.run("models", "show", running.model).code == 0


@pytest.mark.slow
def test_inventory_keeps_the_latest_run(user: AccountUser) -> None:
    """`ftpipe status` without a name still means what the user did last."""
    with user.on(DAY):
        own = next(tune for tune in TUNES if tune.status == "failed")
        assert user.run("jobs", "adopt", own.id, "--provider", "openai").code == 1
        taken(user)
        assert user.document("jobs", "show")["job"]["id"] == own.id


@pytest.mark.slow
def test_inventory_is_readable_in_80_columns(user: AccountUser, monkeypatch: pytest.MonkeyPatch) -> None:
    with user.on(DAY):
        wide = user.run(*INVENTORY).out.splitlines()
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "80")
        lines = user.run(*INVENTORY).out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [model.model for model in TUNES if model.status == "succeeded" and "no-name" not in model.oddities]
    for name in names:
        assert sum(name in line.split() for line in lines) == 1
        assert sum(name in line.split() for line in wide) == 1
    assert any("will be shut down on 2027-01-14, in 25 days" in line for line in lines)
    assert "40 jobs" in " ".join(lines[-2:])
    header = next(line for line in wide if line.startswith("model "))
    assert header.split("  ")[0] == "model"
    assert {"created", "shut down", "data", "retrain"} <= {word.strip() for word in header.split("  ")}


def test_inventory_writes_a_csv_of_everything(one_run: OneRun) -> None:
    inventory, rows = one_run.inventory, one_run.rows
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("model", "checkpoint", "job", "file")}
    assert sum(map(len, kinds.values())) == len(rows)
    assert [row["id"] for row in kinds["model"]] == [model["id"] for model in inventory["models"]]
    made = {model["job"]["id"] for model in inventory["models"] if model["job"]}
    assert len(kinds["job"]) == 40 - len(made)
    assert len(kinds["file"]) == len(inventory["files"])
    main = next(row for row in kinds["model"] if row["id"] == MAIN_MODEL)
    assert (main["days_left"], main["training_file_state"], main["in_registry"]) == ("25", "available", "yes")
    assert float(main["retrain_cost"]) > 0


def test_inventory_within_is_for_cron(user: AccountUser) -> None:
    """Exit 1 if a model that answers ends within that time; those that ended before do not count."""
    for day, within, code in (
        ("2026-11-28", "30d", 0),
        (DAY, "30d", 1),
        (DAY, "25", 1),
        (DAY, "24d", 0),
        ("2027-01-07", "1w", 1),
        ("2027-01-15", "30d", 0),
    ):
        with user.on(day):
            ran = user.run(*INVENTORY, "--within", within, "--json")
        assert ran.code == code, (day, within)
        assert ran.document["ok"] == (code == 0)
        assert (len(ran.document["ending"]) > 10) == bool(code)


def test_inventory_within_refuses_what_is_no_number_of_days(user: AccountUser) -> None:
    ran = user.run(*INVENTORY, "--within", "soon")
    assert ran.code == 2
    assert "30d" in ran.err
    assert user.account.log == []


@pytest.mark.slow
def test_inventory_says_what_could_not_be_read(user: AccountUser) -> None:
    """One list is refused: the rest is shown, and nothing is guessed."""
    for route in ("GET /fine_tuning/jobs", "GET /models", "GET /files"):
        user.account.always(route, refusal(403, None, "missing scopes"))
        with user.on(DAY):
            ran = user.run(*INVENTORY, "--json")
        user.account.always(route, None)
        inventory = ran.document["inventory"]
        assert ran.code == 0
        assert "missing scopes" in ran.err
        assert len(inventory["problems"]) == 1
        assert KEY not in ran.out + ran.err
        [main] = [model for model in inventory["models"] if model["id"] == MAIN_MODEL]
        if route == "GET /files":
            assert main["job"]["training_file_state"] == "available"  # each file that a job names was looked up
        elif route == "GET /models":
            assert {model["state"] for model in inventory["models"]} == {"available", "shut down"}
            assert main["shutdown_source"] == "catalogue"
        else:
            assert (inventory["jobs"], main["job"], main["retraining"]) == ([], None, [])


@pytest.mark.slow
def test_inventory_needs_jobs_or_models(user: AccountUser) -> None:
    for route in ("GET /models", "GET /fine_tuning/jobs"):
        user.account.always(route, refusal(401, None, "bad key"))
    with user.on(DAY):
        ran = user.run(*INVENTORY)
    assert ran.code == 4
    assert not Path(".ftpipe/registry.db").exists() or user.document("jobs", "list")["jobs"] == []


@pytest.mark.slow
def test_inventory_skips_a_job_that_cannot_be_read(user: AccountUser) -> None:
    """A status of null is no status; the other 39 jobs are there."""
    user.account.jobs[MAIN.id]["status"] = None
    with user.on(DAY):
        inventory = taken(user)
    assert len(inventory["jobs"]) == 39
    assert "1" in inventory["problems"][0]
    assert MAIN_MODEL in {model["id"] for model in inventory["models"]}


@pytest.mark.slow
def test_inventory_repeats_a_list_that_was_cut(user: AccountUser) -> None:
    """In the middle of its second page."""
    user.account.script("GET /fine_tuning/jobs", None, Fault(then="cut"))
    with user.on(DAY):
        inventory = taken(user)
    assert (len(inventory["jobs"]), inventory["problems"]) == (40, [])
    assert user.account.calls["GET /fine_tuning/jobs"] == 4


@pytest.mark.slow
def test_inventory_calendar_can_be_imported(user: AccountUser, one_run: OneRun) -> None:
    """One event for the last day of new jobs, one for each day of a shutdown, which a later file has too."""
    first = one_run.calendar
    with user.on("2027-01-07"):
        assert user.run(*INVENTORY, "--calendar", "b.ics").code == 0
        assert user.run(*INVENTORY, "--calendar", "b.ics").code == 2  # never overwritten
    second = Path("b.ics").read_bytes()
    assert first.startswith(b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n")
    assert first.endswith(b"END:VCALENDAR\r\n")
    assert b"DTSTART;VALUE=DATE:20270106" in first
    assert b"DTSTART;VALUE=DATE:20270106" not in second
    assert all(b"DTSTART;VALUE=DATE:20270114" in data for data in (first, second))
    assert [data.count(b"\r\nUID:") for data in (first, second)] == [2, 1]
    assert max(len(line) for line in first.split(b"\r\n")) <= 75
    assert MAIN_MODEL in first.decode().replace("\r\n ", "").replace("\\n", "\n").splitlines()


@pytest.mark.slow
def test_inventory_shows_no_control_characters(user: AccountUser) -> None:
    job = user.account.jobs[next(tune.id for tune in TUNES if tune.suffix == "letters")]
    job["status"] = "odd\x1b[31m\nstatus"
    job["fine_tuned_model"] = None
    with user.on(DAY):
        ran = user.run(*INVENTORY)
    assert "\x1b" not in ran.out + ran.err
    assert "odd" in ran.out
    assert json.loads(user.run(*INVENTORY, "--json").out)
