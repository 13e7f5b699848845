"""``ftpipe train``: plan, confirmation, one pipeline run, and how to continue after each failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.openai_client import Fault, lost_response, never_sent, status_error

HOSTED = ("--provider", "openai", "--yes", "--epochs", "3")


def test_train_shows_the_model_and_how_to_use_it(cli: CliEnvironment) -> None:
    """The result is on stdout, the stages are on stderr, one job was paid."""
    ran = cli.run("train", str(chat_file()), *HOSTED)
    assert ran.code == 0
    assert "ft:gpt-4.1-mini-2025-04-14:org-test::1" in ran.out
    assert "ftpipe chat" in ran.out
    assert "available until 2027-01-14" in ran.out
    for stage in ("upload", "create the job", "wait for the job", "register the model"):
        assert f"✓ {stage}" in ran.err
    assert cli.paid_jobs == 1


def test_train_json_has_run_job_model_metrics_and_cost(cli: CliEnvironment) -> None:
    """The fields that programs read."""
    document = cli.run("train", str(chat_file()), *HOSTED, "--suffix", "bot", "--seed", "7", "--json").document
    assert (document["schema"], document["ok"]) == ("ftpipe.train/1", True)
    assert document["run"]["state"] == "registered"
    assert (document["job"]["status"], document["job"]["trained_tokens"]) == ("succeeded", 1200)
    assert document["model"]["actual_cost"] is not None
    assert document["metrics"][-1] == document["metrics"][-1] | {"step": 3, "total_steps": 3}
    assert document["cost"]["expected"] > 0
    assert (document["plan"]["suffix"], document["plan"]["seed"]) == ("bot", 7)


def test_train_twice_creates_one_job_unless_force_new(cli: CliEnvironment) -> None:
    """The same data and parameters are the same run; ``--force-new`` makes another."""
    data = str(chat_file())
    first = cli.run("train", data, *HOSTED, "--json").document
    second = cli.run("train", data, *HOSTED, "--json").document
    assert second["model"]["id"] == first["model"]["id"]
    assert (first["already_trained"], second["already_trained"]) == (False, True)
    assert cli.paid_jobs == 1
    again = cli.run("train", data, *HOSTED).err
    assert "already trained: this is the model of 20" in again
    assert "done in" not in again
    assert "done in" in cli.run("train", data, *HOSTED, "--force-new").err
    assert cli.paid_jobs == 2


def test_train_needs_confirmation_before_money_is_spent(cli: CliEnvironment) -> None:
    """With nobody to ask, a paid run is refused before anything is sent."""
    ran = cli.run("train", str(chat_file()), "--provider", "openai")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert not cli.server.calls


def test_train_uses_the_local_provider_by_default(cli: CliEnvironment) -> None:
    """No provider means this machine."""
    document = cli.run("train", str(chat_file()), "--json").document
    assert document["run"]["spec"]["provider"] == "local"
    assert document["cost"]["expected"] == 0


LOCAL_OPTIONS = (
    *("--learning-rate", "1e-3", "--lora-rank", "8", "--lora-alpha", "16", "--lora-dropout", "0.1"),
    *("--target-modules", "v_proj,q_proj"),
)


def test_train_local_hyperparameters_are_in_plan_request_and_record(cli: CliEnvironment) -> None:
    """Each flag is shown before the job and afterwards."""
    shown = "learning rate 0.001, LoRA rank 8, alpha 16, dropout 0.1, adapters on q_proj v_proj"
    ran = cli.run("train", str(chat_file()), *LOCAL_OPTIONS)
    assert ran.code == 0
    assert shown in ran.err
    model = cli.run("models", "list", "--json").document["models"][0]
    assert (model["requested"]["lora_r"], model["requested"]["target_modules"]) == (8, ["q_proj", "v_proj"])
    assert shown in cli.run("models", "show", model["id"]).out
    assert shown in cli.run("status").out


def test_train_local_hyperparameters_are_refused_at_hosted_provider(cli: CliEnvironment) -> None:
    """Before anything is sent or spent."""
    ran = cli.run("train", str(chat_file()), *HOSTED, *LOCAL_OPTIONS)
    assert ran.code == 2
    assert "OpenAI does not take learning_rate (--learning-rate), lora_r (--lora-rank)" in ran.err
    assert "--provider local" in ran.err
    assert not cli.server.calls


def test_train_recipe_is_in_the_plan_and_the_request(cli: CliEnvironment) -> None:
    """The brief one, whatever the default is."""
    ran = cli.run("train", str(chat_file()), "--recipe", "brief")
    assert ran.code == 0
    assert "LoRA rank 16, alpha 32, dropout 0.05, adapters on q_proj v_proj" in " ".join(ran.err.split())
    requested = cli.run("models", "list", "--json").document["models"][0]["requested"]
    assert (requested["lora_r"], requested["target_modules"]) == (16, ["q_proj", "v_proj"])


def test_train_recipe_is_refused_at_hosted_provider(cli: CliEnvironment) -> None:
    """Before anything is sent."""
    ran = cli.run("train", str(chat_file()), *HOSTED, "--recipe", "brief")
    assert ran.code == 2
    assert "target_modules (--target-modules), which the recipe brief sets" in " ".join(ran.err.split())
    assert not cli.server.calls


@pytest.mark.parametrize("options", [(), ("--provider", "local"), ("--dry-run",)])
def test_train_unknown_base_is_refused_before_anything_is_made(cli: CliEnvironment, options: tuple[str, ...]) -> None:
    """With the names that are most similar, and the command that lists all."""
    ran = cli.run("train", str(chat_file()), "--model", "gpt-4.1-minni", *options)
    assert ran.code == 2
    assert "there is no base model 'gpt-4.1-minni' on this machine" in ran.err
    assert "did you mean gpt-4.1-mini" in ran.err
    assert "`ftpipe models bases`" in ran.err
    assert not cli.server.calls
    assert not Path(".ftpipe").exists()


@pytest.mark.parametrize("name", ["gpt-9", "./model", "~/model"])
def test_train_base_of_no_known_name_is_refused(cli: CliEnvironment, name: str) -> None:
    assert cli.run("train", str(chat_file()), "--model", name).code == 2
    assert not cli.server.calls


def test_train_unknown_hosted_base_is_refused_before_upload(cli: CliEnvironment) -> None:
    """The endpoint is asked for a name that is not in the catalogue; a name that it has is trained."""
    cli.server.fail_next("models.retrieve", Fault(status_error(404, code="model_not_found")))
    ran = cli.run("train", str(chat_file()), *HOSTED, "--model", "gpt-9")
    assert ran.code == 5
    assert "OpenAI has no base model 'gpt-9'; nothing was sent" in ran.err
    assert "`ftpipe models bases`" in ran.err
    assert cli.server.calls == {"models.retrieve": 1}
    assert cli.run("status").code == 2
    assert cli.run("train", str(chat_file()), *HOSTED, "--model", "gpt-9").code == 0


def test_train_stand_in_is_in_the_plan_and_in_the_name(cli: CliEnvironment) -> None:
    """Said before the question; the request, the run and the model name the real base."""
    ran = cli.run("train", str(chat_file()), "--provider", "local", "--model", "gpt-4.1-mini", "--suffix", "bot")
    assert ran.code == 0
    plan = ran.err.split("cost ")[0]
    assert "base model smollm2-135m-instruct" in plan
    assert "in place of gpt-4.1-mini, which cannot be trained there" in plan
    assert "the model is named ft:smollm2-135m-instruct:… (--serve-as gpt-4.1-mini keeps the old name)" in plan
    assert cli.server.bodies[-1]["model"] == "smollm2-135m-instruct"
    assert "extra_body" not in cli.server.bodies[-1]
    spec = cli.run("status", "--json").document["run"]["spec"]
    assert (spec["model"], spec["requested_model"]) == ("smollm2-135m-instruct", "gpt-4.1-mini")
    assert "smollm2-135m-instruct" in cli.run("models", "list").out


def test_train_serve_as_asks_for_the_old_name(cli: CliEnvironment) -> None:
    """The embedded server gets it; a hosted provider names its models itself."""
    options = ("--provider", "local", "--model", "gpt-4.1-mini", "--serve-as", "gpt-4.1-mini")
    ran = cli.run("train", str(chat_file()), *options)
    assert "the model is named ft:gpt-4.1-mini:…" in ran.err
    assert cli.server.bodies[-1]["extra_body"] == {"serve_as": "gpt-4.1-mini"}
    cli.run("train", str(chat_file()), "--provider", "local", "--model", "gpt-4.1-mini")
    assert cli.paid_jobs == 2
    ran = cli.run("train", str(chat_file()), *HOSTED, "--serve-as", "gpt-4.1-mini")
    assert (ran.code, "--serve-as cannot be used there" in ran.err) == (2, True)
    assert cli.run("train", str(chat_file()), "--serve-as", "a:b").code == 2
    assert cli.paid_jobs == 2


def test_train_hosted_model_needs_a_provider(cli: CliEnvironment) -> None:
    """Never silently here, never silently there."""
    ran = cli.run("train", str(chat_file()), "--model", "gpt-4.1-2025-04-14")
    assert ran.code == 2
    assert "--provider openai" in ran.err
    assert not cli.server.calls


@pytest.mark.parametrize("limit", ["0", "0.00001"])
def test_train_refuses_a_run_over_budget(cli: CliEnvironment, limit: str) -> None:
    """The high end of the estimate counts, also where it is a fraction of a cent."""
    ran = cli.run("train", str(chat_file()), *HOSTED, "--max-cost", limit, "--json")
    assert (ran.code, ran.document["error"]["code"]) == (1, "cost_limit")
    assert not cli.server.calls


def test_train_dry_run_shows_the_plan_and_stops(cli: CliEnvironment) -> None:
    """Nothing is sent, no key is needed, nothing is remembered."""
    ran = cli.run("train", str(chat_file()), "--provider", "openai", "--dry-run")
    assert ran.code == 0
    assert "3 epochs" not in ran.err
    assert "supervised job at OpenAI" in ran.err
    assert not cli.server.calls
    assert not Path(".ftpipe/registry.db").exists()


def test_train_detach_returns_when_the_job_exists(cli: CliEnvironment) -> None:
    """``status`` then shows it running with 8, and ``resume`` brings it home."""
    assert cli.run("train", str(chat_file()), *HOSTED, "--detach").code == 0
    assert (ran := cli.run("status")).code == 8
    assert "ftjob-1" in ran.out
    assert cli.run("resume", "--json").document["model"]["id"].startswith("ft:")
    assert cli.run("status").code == 0
    assert cli.paid_jobs == 1


def test_train_without_data_uses_the_last_prepared_dataset(cli: CliEnvironment) -> None:
    """``prepare`` then ``train``, as the README says."""
    cli.run("prepare", str(chat_file("a.jsonl")))
    document = cli.run("train", *HOSTED, "--json").document
    assert document["run"]["spec"]["data"].endswith("train.jsonl")
    assert "no dataset was named" not in cli.run("train", *HOSTED).err


def test_train_without_data_prefers_the_configured_dataset(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file that was prepared last does not replace it, but its own prepared files do while it is unchanged."""
    chat_file("other.jsonl", first=50)
    data = chat_file("mine.jsonl")
    Path("ftpipe.toml").write_text('data = "mine.jsonl"\n', encoding="utf-8")
    cli.run("prepare", "other.jsonl")
    ran = cli.run("train", "--dry-run", "--json")
    assert ran.document["plan"]["data"] == str(data.absolute())
    assert "training on mine.jsonl, which ftpipe.toml names" in ran.err
    cli.run("prepare")
    ran = cli.run("train", "--dry-run", "--json")
    assert Path(ran.document["plan"]["data"]).parent.name.startswith("mine-")
    assert "prepared from mine.jsonl, which ftpipe.toml names" in ran.err
    chat_file("mine.jsonl", rows=13)
    assert cli.run("train", "--dry-run", "--json").document["plan"]["data"] == str(data.absolute())
    monkeypatch.setenv("FTPIPE_DATA", "other.jsonl")
    assert "training on other.jsonl, which FTPIPE_DATA names" in cli.run("train", "--dry-run").err


def test_train_without_any_dataset_shows_a_hint(cli: CliEnvironment) -> None:
    """The hint is the command to type."""
    ran = cli.run("train")
    assert ran.code == 2
    assert "ftpipe train FILE" in ran.err


def test_train_shows_findings_and_sends_nothing(cli: CliEnvironment) -> None:
    """The findings are on stdout, the code is 1."""
    ran = cli.run("train", str(chat_file(extra="{}\n")), *HOSTED)
    assert ran.code == 1
    assert "would reject" in ran.out
    assert not cli.server.calls


def test_train_explains_a_failed_job(cli: CliEnvironment) -> None:
    """The endpoint's words, what they mean, exit 1; ``status`` tells the same later."""
    cli.server.statuses = ["failed"]
    ran = cli.run("train", str(chat_file()), *HOSTED, "--json")
    assert ran.code == 1
    assert ran.document["job"]["error"]["code"] == "invalid_training_file"
    status = cli.run("status")
    assert status.code == 1
    assert "line 3 has no role" in status.out
    assert "meaning:" in status.out


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
def test_train_refusals_have_exit_codes_and_can_be_resumed(
    cli: CliEnvironment, name: str, fault: Fault, code: int
) -> None:
    """Nothing is lost: the next ``resume`` ends well with one job."""
    cli.server.fail_next(name, *[fault] * 8)
    ran = cli.run("train", str(chat_file()), *HOSTED)
    assert ran.code == code
    assert len(ran.err.splitlines()[-2:]) == 2
    cli.server.clear_faults()
    assert cli.run("resume").code == 0
    assert len(cli.server.stored_jobs) == 1


def test_train_finds_the_job_after_a_lost_response(cli: CliEnvironment) -> None:
    """The job was created, the answer was lost: it is adopted."""
    cli.server.fail_next("jobs.create", Fault(lost_response(), executed=True))
    ran = cli.run("train", str(chat_file()), *HOSTED)
    assert ran.code == 0
    assert cli.paid_jobs == 1


def test_train_timeout_exits_with_still_running(cli: CliEnvironment) -> None:
    """Exit 8, and the way back is named."""
    cli.server.statuses = ["running"]
    ran = cli.run("train", str(chat_file()), *HOSTED, "--timeout", "0")
    assert ran.code == 8
    assert "ftpipe" in ran.err.splitlines()[-1]


def test_train_evaluate_compares_the_model_with_its_base(cli: CliEnvironment) -> None:
    """After training, with the limit from the test file or the option."""
    train, test = str(chat_file("train.jsonl")), str(chat_file("test.jsonl", first=50))
    argv = ("train", train, "--provider", "openai", "--yes", "--epochs", "3", "--evaluate", test)
    ran = cli.run(*argv, "--json")
    assert ran.code == 0, ran.err
    evaluation = ran.document["evaluation"]
    assert [arm["arm"]["model"] for arm in evaluation["arms"]] == [
        "gpt-4.1-mini-2025-04-14",
        ran.document["model"]["id"],
    ]
    assert evaluation["sampling"]["max_tokens"] == 48
    again = cli.run(*argv, "--max-tokens", "9", "--json").document
    assert (again["evaluation"]["sampling"]["max_tokens"], cli.paid_jobs) == (9, 1)


def test_train_checks_the_evaluation_before_it_pays(cli: CliEnvironment) -> None:
    argv = ("train", str(chat_file()), "--provider", "openai", "--yes")
    assert "no file nowhere.jsonl" in cli.run(*argv, "--evaluate", "nowhere.jsonl").err
    assert "--detach" in cli.run(*argv, "--evaluate", "train.jsonl", "--detach").err
    assert "--evaluate" in cli.run(*argv, "--max-tokens", "9").err
    assert cli.run(*argv, "--max-tokens", "9").code == 2
    assert cli.paid_jobs == 0


def file_with_bad_row() -> Path:
    path = chat_file()
    path.write_text(path.read_text() + '{"messages": [{"role": "costumer", "content": "a"}]}\n')
    return path


def test_train_skips_bad_rows_on_this_machine(cli: CliEnvironment) -> None:
    """A bad row is named before anything is sent; with the option the job leaves it out."""
    path = file_with_bad_row()
    refused = cli.run("train", str(path))
    assert refused.code == 1 and "costumer" in refused.out and not cli.server.calls
    assert "--skip-bad-rows trains without" in refused.err
    ran = cli.run("train", str(path), "--skip-bad-rows", "--json")
    assert ran.code == 0 and ran.document["plan"]["hyperparameters"]["extra"] == {"skip_bad_rows": True}


def test_train_skip_bad_rows_needs_local_training(cli: CliEnvironment) -> None:
    """Providers refuse the whole file, so the hint is how to write one without these rows."""
    ran = cli.run("train", str(file_with_bad_row()), *HOSTED, "--skip-bad-rows")
    assert ran.code == 2 and "--quarantine" in ran.err and not cli.server.calls
