"""``ftpipe leave``: the whole move from one account to another, within a budget, and only once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.cli import leave_steps
from ftpipe.migration.leave import latest_provider, save_state, state_path
from ftpipe.paths import state_dir
from ftpipe.records.evaluation import TokenPrice
from ftpipe.records.leave import LeaveModel, LeaveState
from tests.cli.cli_runner import CommandResult
from tests.fakes import openai_account
from tests.fakes.account_contents import MAIN, MAIN_MODEL, SUPPORT_DESK, TUNES
from tests.fakes.openai_account import OpenAIAccount, PaidRequest
from tests.fakes.scripted_server import LOST
from tests.faults.environment import KEY
from tests.migration.conftest import RunCommand

BASE = "gpt-4.1-mini-2025-04-14"
HELD_OUT = str(SUPPORT_DESK / "test.jsonl")
TABLE = """
[providers.elsewhere]
title = "Elsewhere"
base_url = "{base_url}"
key_env = "ELSEWHERE_API_KEY"
target = "openai"
poll_first_seconds = 0.01
poll_max_seconds = 0.02
list_lag_seconds = 0.0
"""


class Everything(dict[str, str]):
    """Every model has learned the task."""

    def get(self, _model: str, _default: object = None) -> str:
        return "support"


@pytest.fixture
def elsewhere(account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIAccount]:
    """The host to go to, as a provider of the project."""
    with OpenAIAccount() as host:
        host.account.task_of = Everything()
        Path("ftpipe.toml").write_text(TABLE.format(base_url=host.base_url))
        monkeypatch.setenv("ELSEWHERE_API_KEY", KEY)
        monkeypatch.setenv("FTPIPE_TRUSTED_HOSTS", host.base_url)
        yield host


def leave(run_command: RunCommand, *more: str, model: str = MAIN_MODEL) -> CommandResult:
    """Leave with one model for the other host."""
    argv = ["leave", model, "--to", "elsewhere", "--base", BASE, "--held-out", HELD_OUT, "--margin", "30"]
    return run_command(*argv, *more)


def jobs_of(host: OpenAIAccount) -> int:
    """Jobs that were paid at a host."""
    return host.calls["POST /fine_tuning/jobs"]


def test_leave_moves_a_model_unattended(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    before = account.state_digest()
    done = leave(run_command, "--yes", "--max-cost", "20", "--html", "report.html")
    assert done.code == 0, done.err
    assert "1 of 1 model can leave" in done.out
    assert jobs_of(elsewhere) == 1
    assert account.changes == []
    assert account.state_digest() == before
    assert account.paid_twice() == []
    page = Path("report.html").read_text()
    assert MAIN.suffix in page
    assert "ready: the old name stands for the successor" in page
    state = json.loads(state_path_of(account).read_text())
    moved = state["models"][0]
    assert moved["stage"] == "moved"
    assert moved["comparison_spent"] == pytest.approx(answers_cost(elsewhere), rel=1e-6)
    assert moved["spent"] >= answers_cost(account) + moved["comparison_spent"]
    aliases = run_command("models", "alias", "--json").document["aliases"]
    assert aliases[MAIN_MODEL] == state["models"][0]["new_model"]


def state_path_of(account: OpenAIAccount) -> Path:
    return state_path(account.base_url)


def answers_cost(host: OpenAIAccount) -> float:
    """What the answers of a host have cost."""
    costs = [answer_cost(one) for one in host.paid if one.kind == "chat"]
    assert costs
    return sum(costs)


def answer_cost(request: PaidRequest) -> float:
    """What one answer has cost."""
    return price_of(request.model).cost(request.prompt_tokens, request.completion_tokens)


def price_of(model: str) -> TokenPrice:
    """What answers of a tuned model cost."""
    price = answer_price("openai", model.split(":")[1], "tuned")
    assert price is not None
    return price


def test_leave_stops_recording_at_the_limit_if_answers_cost_more_than_planned(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint counts more tokens than the plan did, so that the limit is reached in the middle."""
    monkeypatch.setattr(openai_account, "CHARACTERS_PER_TOKEN", Fraction(1, 5000))
    done = leave(run_command, "--yes", "--max-cost", "5")
    assert done.code == 1
    assert "could exceed --max-cost" in done.err + done.out
    assert 0 < len(account.paid) < 48
    under_way = 4 * max(answer_cost(one) for one in account.paid)
    assert answers_cost(account) < 5 + under_way
    assert elsewhere.paid == []


def test_limit_of_a_step_is_what_the_others_leave() -> None:
    models = (
        LeaveModel(model="a", base="b", recording_cost=1.0, training_cost=4.0, comparison_cost=2.0, spent=0.5),
        LeaveModel(model="c", base="b", recording_cost=0.5, training_cost=2.0, comparison_cost=1.0, spent=3.0),
    )
    state = LeaveState(
        created_at=1, provider="p", title="P", endpoint="e", to="local", backup=Path("b"), max_cost=20, models=models
    )
    # 3.5 are spent, and 10.5 are planned
    assert state.limit_for(planned=1.0, spent=0.5) == pytest.approx(7.5)
    assert state.limit_for(planned=6.0, spent=0.0) == pytest.approx(12.0)
    assert state.model_copy(update={"max_cost": 3.0}).limit_for(planned=0.0, spent=0.0) == 0.0
    assert state.model_copy(update={"max_cost": None}).limit_for(planned=1.0, spent=0.0) is None


@pytest.mark.slow
def test_leave_again_pays_nothing(run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount) -> None:
    assert leave(run_command, "--yes", "--max-cost", "20").code == 0
    paid = (len(account.paid), len(elsewhere.paid))
    again = run_command("leave", "--yes")
    assert again.code == 0, again.err
    assert (len(account.paid), len(elsewhere.paid)) == paid


@pytest.mark.slow
def test_leave_continues_after_an_error_in_the_middle(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    """The answer to the paid call is lost: the next call finds the job, and asks no question again."""
    elsewhere.script("POST /fine_tuning/jobs", LOST)
    elsewhere.always("GET /fine_tuning/jobs", LOST)
    assert leave(run_command, "--yes", "--max-cost", "20").code == 1
    asked = len(account.paid)
    elsewhere.always("GET /fine_tuning/jobs", None)
    again = run_command("leave", "--yes")
    assert again.code == 0, again.err
    assert jobs_of(elsewhere) == 1
    assert len(account.paid) == asked
    assert elsewhere.paid_twice() == account.paid_twice() == []


class SimulatedCrash(BaseException):
    """SIGKILL: no line after this one is executed."""


@pytest.mark.slow
@pytest.mark.parametrize("saved_states", [2, 3])
def test_leave_continues_after_a_crash(
    run_command: RunCommand,
    account: OpenAIAccount,
    elsewhere: OpenAIAccount,
    monkeypatch: pytest.MonkeyPatch,
    saved_states: int,
) -> None:
    """Killed when the answers are recorded or the model is trained, and before that is saved."""
    with monkeypatch.context() as patch:
        calls = iter(range(saved_states))

        def save(state: LeaveState) -> LeaveState:
            if next(calls, None) is None:
                raise SimulatedCrash
            return save_state(state)

        patch.setattr(leave_steps, "save_state", save)
        with pytest.raises(SimulatedCrash):
            leave(run_command, "--yes", "--max-cost", "20")
    asked = len(account.paid)
    assert asked == 48
    again = run_command("leave", "--yes")
    assert again.code == 0, again.err
    assert len(account.paid) == asked
    assert jobs_of(elsewhere) == 1
    assert elsewhere.paid_twice() == account.paid_twice() == []


def test_latest_provider_is_that_of_the_last_move() -> None:
    assert latest_provider() is None
    for provider, moment in (("first", 2), ("second", 3), ("third", 1)):
        state = LeaveState(
            created_at=1,
            updated_at=moment,
            provider=provider,
            title=provider,
            endpoint=f"https://{provider}.example",
            to="local",
            backup=Path("backup"),
        )
        save_state(state)
    state_path("https://first.example").with_name("damaged.json").write_text("{")
    assert latest_provider() == "second"


def test_leave_dry_run_pays_and_keeps_nothing(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    done = leave(run_command, "--dry-run", "--html", "plan.html")
    assert done.code == 0, done.err
    assert BASE in done.out
    assert "at most" in done.out
    assert account.paid == elsewhere.paid == []
    assert account.changes == elsewhere.changes == []
    assert not Path("backup").exists()
    assert not (state_dir() / "leave").exists()
    assert "saved; not retrained yet" in Path("plan.html").read_text()
    assert "data    files/file-" in done.err
    assert "content.jsonl, from the backup" in done.err
    assert "ftpipe-leave-" not in done.err + Path("plan.html").read_text()
    assert "Next: the same command" in done.err


@pytest.mark.slow
def test_leave_plan_says_that_a_gate_cannot_pass_and_names_data_that_is_not_in_the_backup(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    """The state of the migration is that of `models migrate`, which downloaded the data."""
    few = Path("few.jsonl")
    few.write_text("".join(Path(HELD_OUT).read_text().splitlines(keepends=True)[:6]))
    where = (MAIN_MODEL, "--to", "elsewhere", "--base", BASE, "--held-out", str(few))
    alone = run_command("models", "migrate", *where, "--from", "openai", "--yes")
    assert alone.code == 1
    done = run_command("leave", *where, "--dry-run")
    assert done.code == 0, done.err
    for plan in (alone.err, done.err):
        assert "note    the gate cannot pass: it needs 10 prompts, and has 6" in plan
        assert "training.jsonl, downloaded from its host" in plan


@pytest.mark.slow
def test_leave_dry_run_as_json_names_files_of_the_later_backup(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    document = leave(run_command, "--dry-run", "--json").document
    assert document["state"]["models"][0]["data"].startswith(str(Path("backup").absolute()))
    assert "migration" not in document, "it would be that of the last model only"


@pytest.mark.slow
def test_leave_dry_run_of_a_model_that_cannot_move_says_what_to_do(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    deleted = next(tune for tune in TUNES if tune.suffix == "faq" and tune.oddities == "file-deleted")
    done = leave(run_command, "--dry-run", model=deleted.model)
    assert "--log FILE" in done.err
    assert "without --dry-run" not in done.err


@pytest.mark.slow
def test_leave_dry_run_of_a_model_that_was_deleted_says_so(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    deleted = next(tune for tune in TUNES if "model-deleted" in tune.oddities)
    done = leave(run_command, "--dry-run", model=deleted.model)
    assert done.code == 0, done.err
    assert "does not list it any more" in done.err
    assert "needs a decision" in done.out


@pytest.mark.slow
def test_leave_backs_up_a_model_without_a_job(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    listed = run_command("models", "inventory", "--json").document["inventory"]["models"]
    name = next(model["id"] for model in listed if model["job"] is None and model["state"] == "available")
    saved = leave(run_command, "--dry-run", "--json", model=name).document["state"]["models"][0]
    assert saved["missing"] == [f"job {name} job: no job that the key can see has trained this model"]


@pytest.mark.slow
def test_leave_takes_a_recording_with_more_samples_and_plans_no_other_settings(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    prompts = ("--prompts", HELD_OUT, "--samples", "1")
    assert run_command("models", "record", MAIN_MODEL, *prompts, "--provider", "openai", "--yes").code == 0
    assert leave(run_command, "--dry-run", "--json").document["state"]["models"][0]["recording_cost"] == 0
    other = leave(run_command, "--samples", "2", "--dry-run")
    assert "has samples 1, not 2" in other.err
    assert "without --dry-run" not in other.err


def test_leave_keeps_the_budget(run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount) -> None:
    done = leave(run_command, "--yes", "--max-cost", "0.01", "--json")
    assert done.code == 1
    assert done.document["error"]["code"] == "cost_limit"
    assert account.paid == elsewhere.paid == []
    assert elsewhere.changes == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ([MAIN_MODEL, "--held-out", HELD_OUT], "--to"),
        (["--to", "elsewhere", "--base", BASE], "--all"),
        ([MAIN_MODEL, "--to", "elsewhere", "--base", BASE, "--held-out", HELD_OUT], "--yes"),
    ],
)
def test_leave_without_a_terminal_says_what_to_pass(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount, argv: list[str], hint: str
) -> None:
    done = run_command("leave", *argv)
    assert done.code == 2
    assert hint in done.err
    assert account.paid == elsewhere.paid == []
    assert elsewhere.changes == []


@pytest.mark.slow
def test_leave_keeps_the_old_model_if_the_gate_fails(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    elsewhere.account.task_of = {}
    limit = leave(run_command, "--dry-run", "--json").document["highest_cost"] * 1.2
    done = leave(run_command, "--yes", "--max-cost", str(limit), "--margin", "5")
    assert done.code == 1
    assert "not shown to be good enough" in done.out
    assert MAIN_MODEL not in run_command("models", "alias", "--json").document["aliases"]
    paid = (len(account.paid), len(elsewhere.paid))
    again = run_command("leave", "--yes", "--margin", "100")
    assert again.code == 0, again.err
    assert MAIN_MODEL in run_command("models", "alias", "--json").document["aliases"]
    assert (len(account.paid), len(elsewhere.paid)) == paid


@pytest.mark.slow
def test_leave_goes_on_with_the_other_models(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    """A model whose training file was deleted is named; the other one moves."""
    deleted = next(tune for tune in TUNES if tune.suffix == "faq" and tune.oddities == "file-deleted")
    done = run_command(
        *("leave", deleted.model, MAIN_MODEL, "--to", "elsewhere", "--base", BASE),
        *("--held-out", HELD_OUT, "--margin", "30", "--yes"),
    )
    assert done.code == 1
    assert "1 of 2 models can leave" in done.out
    assert "1 needs a decision" in done.out
    assert jobs_of(elsewhere) == 1
    assert {one.model for one in account.paid} == {MAIN_MODEL}


@pytest.mark.slow
def test_leave_distills_from_requests_if_the_training_file_is_gone(
    run_command: RunCommand, account: OpenAIAccount, elsewhere: OpenAIAccount
) -> None:
    """The plan of the successor waits for the recorded answers; then the budget is checked again."""
    deleted = next(tune for tune in TUNES if tune.suffix == "faq" and tune.oddities == "file-deleted")
    lines = (SUPPORT_DESK / "train.jsonl").read_text().splitlines()[:40]
    requests = [{"messages": json.loads(line)["messages"][:-1], "model": deleted.model} for line in lines]
    Path("log.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    done = leave(run_command, "--log", "log.jsonl", "--yes", "--max-cost", "20", "--margin", "100", model=deleted.model)
    assert done.code == 0, done.err
    assert "after recording" in done.out
    assert jobs_of(elsewhere) == 1
    assert account.paid_twice() == []


@pytest.mark.slow
def test_leave_checks_the_host_before_anything_else(run_command: RunCommand, account: OpenAIAccount) -> None:
    done = run_command("leave", MAIN_MODEL, "--to", "nebius", "--held-out", HELD_OUT, "--yes")
    assert done.code == 4
    assert "NEBIUS_API_KEY" in done.err
    assert not Path("backup").exists()
    assert account.paid == []
