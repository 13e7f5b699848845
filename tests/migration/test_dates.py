"""What the tool says and does on four days: 2026-12-20, and the last days of training and of the models at OpenAI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_runner import chat_file
from tests.fakes.account_contents import MAIN_MODEL
from tests.migration.conftest import AccountUser

PLAN = ("train", "train.jsonl", "--provider", "openai", "--dry-run")
PREPARE = ("prepare", "train.jsonl", "--provider", "openai")
TRAIN = ("train", "train.jsonl", "--provider", "openai", "--yes", "--timeout", "0")
ALLOW_A_SHORT_LIFE = '[checks]\nignore = ["FT710"]\n'

BEFORE, LAST_JOB, LAST_ANSWER, AFTER = DAYS = ("2026-12-20", "2027-01-06", "2027-01-13", "2027-01-15")


def said(text: str) -> str:
    """What was written, in one line."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("day", "jobs", "models"),
    [
        (BEFORE, "accepts new jobs until 2027-01-06, for 17 more days", "stop answering on 2027-01-14, in 25 days"),
        (LAST_JOB, "accepts new jobs today for the last time", "stop answering on 2027-01-14, in 8 days"),
        (LAST_ANSWER, "has accepted no new jobs since 2027-01-06", "stop answering tomorrow (2027-01-14)"),
        (AFTER, "has accepted no new jobs since 2027-01-06", "were shut down and do not answer"),
    ],
)
def test_inventory_on(user: AccountUser, day: str, jobs: str, models: str) -> None:
    with user.on(day):
        ran = user.run("models", "inventory", "--json")
        text = said(user.run("models", "inventory").err)
    inventory = ran.document["inventory"]
    assert any(jobs in note for note in ran.document["notes"])
    assert any(models in note for note in ran.document["notes"])
    assert jobs in text and models in text
    assert inventory["accepts_jobs"] == (day in (BEFORE, LAST_JOB))
    main = next(model for model in inventory["models"] if model["id"] == MAIN_MODEL)
    assert main["days_left"] == {BEFORE: 25, LAST_JOB: 8, LAST_ANSWER: 1, AFTER: -1}[day]
    assert main["state"] == ("shut down" if day == AFTER else "available")
    hosts = {cost["provider"] for cost in main["retraining"]}
    assert ("openai" in hosts) == (day in (BEFORE, LAST_JOB))
    assert {"azure", "nebius", "local"} <= hosts  # what can still be done on each of the days
    assert main["job"]["training_file_state"] == "available"
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


@pytest.mark.parametrize(
    ("day", "cell", "note"),
    [
        (BEFORE, "25", "will be shut down on 2027-01-14, in 25 days"),
        (LAST_JOB, "8", "will be shut down on 2027-01-14, in 8 days"),
        (LAST_ANSWER, "1", "will be shut down tomorrow (2027-01-14)"),
        (AFTER, "gone", "not answer any more"),
    ],
)
def test_models_list_on(user: AccountUser, day: str, cell: str, note: str) -> None:
    with user.on(day):
        assert user.run("models", "inventory").code == 0
        ran = user.run("models", "list")
    [line] = [line for line in ran.out.splitlines() if line.startswith(f"{MAIN_MODEL} ")]
    assert cell in line.split()
    assert note in said(ran.err)


@pytest.mark.parametrize(
    ("day", "provider", "models", "aliased"),
    [
        (BEFORE, "accepts new jobs until 2027-01-06, for 17 more days", "on 2027-01-14, in 25 days", "warning"),
        (LAST_JOB, "accepts new jobs today for the last time (2027-01-06)", "on 2027-01-14, in 8 days", "warning"),
        (LAST_ANSWER, "no new jobs since 2027-01-06; tuned models answer until", "tomorrow (2027-01-14)", "warning"),
        (AFTER, "no new jobs since 2027-01-06; tuned models were shut down", "shut down before today", "error"),
    ],
)
def test_doctor_on(user: AccountUser, day: str, provider: str, models: str, aliased: str) -> None:
    """The provider's dates, and those of the registered models; an alias of a model that is gone is an error."""
    with user.on(BEFORE):
        assert user.run("models", "inventory").code == 0
        assert user.run("models", "alias", "support@production", MAIN_MODEL).code == 0
    with user.on(day):
        checks = user.document("doctor", "--provider", "openai")["checks"]
    [own] = [check for check in checks if check["name"] == "openai"]
    assert provider in own["message"]
    assert own["status"] == ("error" if day in (LAST_ANSWER, AFTER) else "warning")
    lines = [check for check in checks if check["name"] in ("model", "models")]
    assert any(models in check["message"] for check in lines)
    assert {check["status"] for check in lines} - {"ok"} == {aliased}
    if day == AFTER:
        [broken] = [check for check in lines if check["status"] == "error"]
        assert "support@production" in broken["message"]
        assert MAIN_MODEL in broken["message"]


@pytest.mark.parametrize("day", DAYS)
def test_doctor_online_on(user: AccountUser, day: str) -> None:
    """What the endpoint says about the base, and whether jobs are accepted."""
    with user.on(day):
        checks = {one["name"]: one for one in user.document("doctor", "--online", "--provider", "openai")["checks"]}
    training, base = checks["openai training"], checks["openai base"]
    if day in (BEFORE, LAST_JOB):
        assert "until 2027-01-06" in training["message"]
    else:
        assert training["status"] == "error"
        assert "no new jobs since 2027-01-06" in training["message"]
    words = {BEFORE: "in 25 days", LAST_JOB: "in 8 days", LAST_ANSWER: "tomorrow", AFTER: "was shut down on"}
    assert words[day] in base["message"]
    assert base["status"] == ("error" if day == AFTER else "warning")
    assert user.account.paid == []


@pytest.mark.parametrize(("day", "code"), [(LAST_ANSWER, 0), (AFTER, 5)])
def test_chat_on(user: AccountUser, day: str, code: int) -> None:
    """The model answers until the day before; after it the message says why it does not."""
    with user.on(day):
        user.run("models", "inventory")
        ran = user.run("chat", MAIN_MODEL, "-m", "my invoice is wrong")
    assert ran.code == code, ran.err
    if day == AFTER:
        assert "was shut down on 2027-01-14" in said(ran.err)
    else:
        assert "queue:" in ran.out
