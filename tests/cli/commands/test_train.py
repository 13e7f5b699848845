"""``train``: the plan before, the money asked for, the pipeline run once, and the way back after anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.openai_client import Fault, lost_response, never_sent, status_error

HOSTED = ("--provider", "openai", "--yes", "--epochs", "3")


def test_a_run_ends_with_the_models_name_and_how_to_use_it(world: CliEnvironment) -> None:
    """The result is on stdout, the stages are on stderr, one job was paid."""
    ran = world.run("train", str(chat_file()), *HOSTED)
    assert ran.code == 0
    assert "ft:gpt-4.1-mini-2025-04-14:org-test::1" in ran.out
    assert "ftpipe chat" in ran.out
    assert "available until 2027-01-14" in ran.out
    for stage in ("upload", "create the job", "wait for the job", "register the model"):
        assert f"✓ {stage}" in ran.err
    assert world.paid_jobs == 1


def test_the_document_has_run_job_model_metrics_and_cost(world: CliEnvironment) -> None:
    """The fields that programs read."""
    document = world.run("train", str(chat_file()), *HOSTED, "--suffix", "bot", "--seed", "7", "--json").document
    assert (document["schema"], document["ok"]) == ("ftpipe.train/1", True)
    assert document["run"]["state"] == "registered"
    assert (document["job"]["status"], document["job"]["trained_tokens"]) == ("succeeded", 1200)
    assert document["model"]["actual_cost"] is not None
    assert document["metrics"][-1] == document["metrics"][-1] | {"step": 3, "total_steps": 3}
    assert document["cost"]["expected"] > 0
    assert (document["plan"]["suffix"], document["plan"]["seed"]) == ("bot", 7)


def test_asked_twice_it_is_done_once(world: CliEnvironment) -> None:
    """The same data and parameters are the same run; ``--force-new`` makes another."""
    data = str(chat_file())
    first = world.run("train", data, *HOSTED, "--json").document
    second = world.run("train", data, *HOSTED, "--json").document
    assert second["model"]["id"] == first["model"]["id"]
    assert world.paid_jobs == 1
    world.run("train", data, *HOSTED, "--force-new")
    assert world.paid_jobs == 2


def test_money_is_never_spent_without_a_yes(world: CliEnvironment) -> None:
    """With nobody to ask, a paid run is refused before anything is sent."""
    ran = world.run("train", str(chat_file()), "--provider", "openai")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert not world.server.calls


def test_the_free_provider_is_the_default_and_asks_nothing(world: CliEnvironment) -> None:
    """No provider means this machine."""
    document = world.run("train", str(chat_file()), "--json").document
    assert document["run"]["spec"]["provider"] == "local"
    assert document["cost"]["expected"] == 0


def test_a_hosted_model_needs_its_provider_named(world: CliEnvironment) -> None:
    """Never silently here, never silently there."""
    ran = world.run("train", str(chat_file()), "--model", "gpt-4.1-2025-04-14")
    assert ran.code == 2
    assert "--provider openai" in ran.err
    assert not world.server.calls


@pytest.mark.parametrize("limit", ["0", "0.00001"])
def test_a_run_over_its_budget_is_refused(world: CliEnvironment, limit: str) -> None:
    """The high end of the estimate counts, also where it is a fraction of a cent."""
    ran = world.run("train", str(chat_file()), *HOSTED, "--max-cost", limit, "--json")
    assert (ran.code, ran.document["error"]["code"]) == (1, "over_budget")
    assert not world.server.calls


def test_a_dry_run_shows_the_plan_and_stops(world: CliEnvironment) -> None:
    """Nothing is sent, no key is needed, nothing is remembered."""
    ran = world.run("train", str(chat_file()), "--provider", "openai", "--dry-run")
    assert ran.code == 0
    assert "3 epochs" not in ran.err
    assert "supervised job at OpenAI" in ran.err
    assert not world.server.calls
    assert not Path(".ftpipe/registry.db").exists()


def test_detached_it_returns_when_the_job_exists(world: CliEnvironment) -> None:
    """``status`` then shows it running with 8, and ``resume`` brings it home."""
    assert world.run("train", str(chat_file()), *HOSTED, "--detach").code == 0
    assert (ran := world.run("status")).code == 8
    assert "ftjob-1" in ran.out
    assert world.run("resume", "--json").document["model"]["id"].startswith("ft:")
    assert world.run("status").code == 0
    assert world.paid_jobs == 1


def test_without_data_the_dataset_prepared_last_is_taken(world: CliEnvironment) -> None:
    """``prepare`` then ``train``, as the README says."""
    world.run("prepare", str(chat_file("a.jsonl")))
    document = world.run("train", *HOSTED, "--json").document
    assert document["run"]["spec"]["data"].endswith("train.jsonl")
    assert "no dataset was named" not in world.run("train", *HOSTED).err


def test_without_data_and_without_anything_prepared_it_says_so(world: CliEnvironment) -> None:
    """The hint is the command to type."""
    ran = world.run("train")
    assert ran.code == 2
    assert "ftpipe train FILE" in ran.err


def test_bad_data_are_shown_and_nothing_is_sent(world: CliEnvironment) -> None:
    """The findings are on stdout, the code is 1."""
    ran = world.run("train", str(chat_file(extra="{}\n")), *HOSTED)
    assert ran.code == 1
    assert "would reject" in ran.out
    assert not world.server.calls


def test_a_failed_job_is_explained(world: CliEnvironment) -> None:
    """The endpoint's words, what they mean, exit 1; ``status`` tells the same later."""
    world.server.statuses = ["failed"]
    ran = world.run("train", str(chat_file()), *HOSTED, "--json")
    assert ran.code == 1
    assert ran.document["job"]["error"]["code"] == "invalid_training_file"
    told = world.run("status")
    assert told.code == 1
    assert "line 3 has no role" in told.out
    assert "meaning:" in told.out


@pytest.mark.parametrize(
    ("name", "fault", "code"),
    [
        ("files.create", Fault(never_sent()), 5),
        ("jobs.create", Fault(status_error(401, code="invalid_api_key")), 4),
        ("jobs.create", Fault(status_error(403, code="training_not_available")), 5),
        ("jobs.create", Fault(status_error(429, code="insufficient_quota")), 5),
        ("jobs.create", Fault(status_error(400, message="model not found")), 5),
    ],
)
def test_each_refusal_has_its_code_and_resume_goes_on(
    world: CliEnvironment, name: str, fault: Fault, code: int
) -> None:
    """Nothing is lost: the next ``resume`` ends well with one job."""
    world.server.fail_next(name, *[fault] * 8)
    ran = world.run("train", str(chat_file()), *HOSTED)
    assert ran.code == code
    assert len(ran.err.splitlines()[-2:]) == 2
    world.server.clear_faults()
    assert world.run("resume").code == 0
    assert len(world.server.stored_jobs) == 1


def test_a_lost_answer_is_found_again_and_not_paid_twice(world: CliEnvironment) -> None:
    """The job was created, the answer was lost: it is adopted."""
    world.server.fail_next("jobs.create", Fault(lost_response(), executed=True))
    ran = world.run("train", str(chat_file()), *HOSTED)
    assert ran.code == 0
    assert world.paid_jobs == 1


def test_the_time_limit_ends_with_still_running(world: CliEnvironment) -> None:
    """Exit 8, and the way back is named."""
    world.server.statuses = ["running"]
    ran = world.run("train", str(chat_file()), *HOSTED, "--timeout", "0")
    assert ran.code == 8
    assert "ftpipe" in ran.err.splitlines()[-1]
