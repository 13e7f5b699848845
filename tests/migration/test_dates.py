"""What the tool says and does on four days: 2026-12-20, and the last days of training and of the models at OpenAI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_runner import chat_file
from tests.fakes.account_contents import MAIN_MODEL
from tests.migration.conftest import AccountUser

pytestmark = pytest.mark.usefixtures("no_fsync")

PLAN = ("train", "train.jsonl", "--provider", "openai", "--dry-run")
PREPARE = ("prepare", "train.jsonl", "--provider", "openai")
TRAIN = ("train", "train.jsonl", "--provider", "openai", "--yes", "--timeout", "0")
ALLOW_A_SHORT_LIFE = '[checks]\nignore = ["FT710"]\n'

BEFORE, LAST_JOB, LAST_ANSWER, AFTER = DAYS = ("2026-12-20", "2027-01-06", "2027-01-13", "2027-01-15")


def said(text: str) -> str:
    """What was written, in one line."""
    return " ".join(text.split())


def test_inventory_and_models_list_on_each_day(user: AccountUser) -> None:
    """Days left, whether new jobs are accepted, and where a model can still be trained again."""
    expected = {
        BEFORE: ("accepts new jobs until 2027-01-06, for 17 more days", "stop answering on 2027-01-14, in 25 days", 25),
        LAST_JOB: ("accepts new jobs today for the last time", "stop answering on 2027-01-14, in 8 days", 8),
        LAST_ANSWER: ("has accepted no new jobs since 2027-01-06", "stop answering tomorrow (2027-01-14)", 1),
        AFTER: ("has accepted no new jobs since 2027-01-06", "were shut down and do not answer", -1),
    }
    for day, (jobs, models, days) in expected.items():
        with user.on(day):
            ran = user.run("models", "inventory", "--json")
            listed = user.run("models", "list")
        inventory, notes = ran.document["inventory"], ran.document["notes"]
        assert any(jobs in note for note in notes), day
        assert any(models in note for note in notes), day
        assert all(note in said(ran.err) for note in notes), day
        assert inventory["accepts_jobs"] == (day in (BEFORE, LAST_JOB))
        main = next(model for model in inventory["models"] if model["id"] == MAIN_MODEL)
        assert main["days_left"] == days
        assert main["state"] == ("shut down" if day == AFTER else "available")
        hosts = {cost["provider"] for cost in main["retraining"]}
        assert ("openai" in hosts) == (day in (BEFORE, LAST_JOB))
        assert {"azure", "nebius", "local"} <= hosts  # what can still be done on each of the days
        assert main["job"]["training_file_state"] == "available"
        [line] = [line for line in listed.out.splitlines() if line.startswith(f"{MAIN_MODEL} ")]
        assert (str(days) if days >= 0 else "gone") in line.split()
        note = {LAST_ANSWER: "will be shut down tomorrow (2027-01-14)", AFTER: "not answer any more"}
        assert note.get(day, f"will be shut down on 2027-01-14, in {days} days") in said(listed.err), day
    assert user.account.changes == []


@pytest.mark.parametrize(
    ("day", "notice"),
    [
        (
            BEFORE,
            "OpenAI accepts new jobs until 2027-01-06, for 17 more days, only from organizations that trained there",
        ),
        (
            LAST_JOB,
            "OpenAI accepts new jobs today for the last time (2027-01-06), only from organizations that trained",
        ),
        (
            LAST_ANSWER,
            "OpenAI has accepted no new fine-tuning jobs since 2027-01-06; "
            "tuned models answer until 2027-01-14, for 1 more day",
        ),
        (
            AFTER,
            "OpenAI has accepted no new fine-tuning jobs since 2027-01-06; tuned models were shut down on 2027-01-14",
        ),
    ],
)
def test_plan_and_prepare_on(user: AccountUser, day: str, notice: str) -> None:
    """The plan and the check of data say the same; after the last day there is no plan, and before it is one."""
    chat_file()
    Path("ftpipe.toml").write_text(ALLOW_A_SHORT_LIFE)
    with user.on(day):
        prepared, planned = user.run(*PREPARE), user.run(*PLAN)
    assert prepared.code == 0
    assert notice in said(prepared.err)
    assert notice in said(planned.err)
    assert planned.code == (0 if day in (BEFORE, LAST_JOB) else 5)
    if day in (LAST_ANSWER, AFTER):
        assert "--provider local" in planned.err
    assert user.account.log == []


@pytest.mark.parametrize(
    ("day", "code", "finding"),
    [
        (BEFORE, 0, "stop working on 2027-01-14, in 25 days."),
        (LAST_JOB, 1, "stop working on 2027-01-14, in 8 days."),
        (LAST_ANSWER, 1, "stop working on 2027-01-14, in 1 day."),
        (AFTER, 1, "was shut down on 2027-01-14."),
    ],
)
def test_prepare_finds_a_short_life_on(user: AccountUser, day: str, code: int, finding: str) -> None:
    """A base of less than two weeks is an error, and the hint says how to train on it all the same."""
    chat_file()
    with user.on(day):
        ran = user.run(*PREPARE)
    assert ran.code == code
    assert finding in said(ran.out)
    assert ("FT710" in said(ran.out).partition("ignore = [")[2]) == (day in (LAST_JOB, LAST_ANSWER))


@pytest.mark.parametrize("day", DAYS)
def test_train_on(user: AccountUser, day: str) -> None:
    """A job of an existing customer is created until the last day; after it nothing is sent."""
    chat_file()
    Path("ftpipe.toml").write_text(ALLOW_A_SHORT_LIFE)
    with user.on(day):
        ran = user.run(*TRAIN)
    created = [paid.kind for paid in user.account.paid]
    if day in (BEFORE, LAST_JOB):
        assert ran.code == 8, ran.err  # it runs
        assert created == ["job"]
    else:
        assert ran.code == 5
        assert "has accepted no new fine-tuning jobs since 2027-01-06" in ran.err
        assert user.account.log == []


def test_doctor_on_each_day(user: AccountUser) -> None:
    """The provider's dates, its base, and the registered models; an alias of a model that is gone is an error."""
    expected = {
        BEFORE: ("accepts new jobs until 2027-01-06, for 17 more days", "on 2027-01-14, in 25 days"),
        LAST_JOB: ("accepts new jobs today for the last time (2027-01-06)", "on 2027-01-14, in 8 days"),
        LAST_ANSWER: ("no new jobs since 2027-01-06; tuned models answer until", "tomorrow (2027-01-14)"),
        AFTER: (
            "no new jobs since 2027-01-06; tuned models were shut down on 2027-01-14",
            "was shut down on 2027-01-14",
        ),
    }
    with user.on(BEFORE):
        assert user.run("models", "inventory").code == 0
        assert user.run("models", "alias", "support@production", MAIN_MODEL).code == 0
    for day, (jobs, shutdown) in expected.items():
        with user.on(day):
            checks = user.document("doctor", "--online", "--provider", "openai")["checks"]
        by_name = {check["name"]: check for check in checks}
        own, training, base = (by_name[name] for name in ("openai", "openai training", "openai base"))
        is_open = day in (BEFORE, LAST_JOB)
        assert jobs in own["message"], day
        assert own["status"] == ("warning" if is_open else "error")
        assert ("until 2027-01-06" in training["message"]) == is_open
        assert (jobs in training["message"], training["status"] == "error") == (not is_open, not is_open)
        assert shutdown in base["message"], day
        assert base["status"] == ("error" if day == AFTER else "warning")
        registered = [check for check in checks if check["name"] in ("model", "models")]
        assert any(shutdown in check["message"] for check in registered), day
        assert {check["status"] for check in registered} - {"ok"} == {"error" if day == AFTER else "warning"}
    broken = next(check for check in registered if check["status"] == "error")
    assert "support@production" in broken["message"]
    assert MAIN_MODEL in broken["message"]
    assert user.account.paid == []


def test_chat_on_the_last_day_and_after_it(user: AccountUser) -> None:
    """The model answers until the day before its shutdown; after it the message says why it does not."""
    with user.on(LAST_ANSWER):
        user.run("models", "inventory")
        answered = user.run("chat", MAIN_MODEL, "-m", "my invoice is wrong")
    with user.on(AFTER):
        refused = user.run("chat", MAIN_MODEL, "-m", "my invoice is wrong")
    assert answered.code == 0, answered.err
    assert "queue:" in answered.out
    assert refused.code == 5
    assert "was shut down on 2027-01-14" in said(refused.err)
    assert "ftpipe models inventory" in refused.err
