"""The commands around a run: models, jobs, chat, explain, config, doctor, split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai.pagination import SyncCursorPage
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from ftpipe.cli import root
from ftpipe.cli.context import CliContext
from ftpipe.cli.main import execute
from ftpipe.paths import default_registry, home
from ftpipe.pipeline.chat_target import trained_system
from ftpipe.registry import open_registry
from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.openai_client import Fault, status_error

HOSTED = ("--provider", "openai", "--yes", "--epochs", "3")
MODEL = "ft:gpt-4.1-mini-2025-04-14:org-test::1"


@pytest.fixture
def trained(cli: CliEnvironment) -> CliEnvironment:
    """A command line for which one model was trained."""
    assert cli.run("train", str(chat_file()), *HOSTED).code == 0
    return cli


def test_models_list_and_show_with_lineage(trained: CliEnvironment) -> None:
    """Data, file, job, cost and metrics of a model."""
    assert MODEL in trained.run("models", "list").out
    assert [model["id"] for model in trained.run("models", "list", "--json").document["models"]] == [MODEL]
    shown = trained.run("models", "show", MODEL).out
    for part in ("ftjob-1", "file-1", "sha256", "trained", "train loss"):
        assert part in shown


def test_models_alias_is_set_and_has_a_history(trained: CliEnvironment) -> None:
    """The alias stands for the model everywhere."""
    assert trained.run("models", "alias", "bot@production", MODEL, "--reason", "first").code == 0
    assert MODEL in trained.run("models", "show", "bot@production").out
    assert "bot@production" in trained.run("models", "alias").out
    history = trained.run("models", "alias", "bot@production", "--json").document["history"]
    assert (history[0]["to_model"], history[0]["reason"]) == (MODEL, "first")


def test_models_show_unknown_model_has_a_hint(cli: CliEnvironment) -> None:
    """Usage, not a traceback; an empty registry says how to fill it."""
    ran = cli.run("models", "show", "nobody")
    assert ran.code == 2
    assert "ftpipe models list" in ran.err
    assert "ftpipe train" in cli.run("models", "list").err


@pytest.mark.parametrize(
    "argv",
    [
        ("models", "show", "bot@prodution"),
        ("models", "verify", "bot@prodution"),
        ("losses", "bot@prodution"),
        ("evaluate", "bot@prodution", "--data", "train.jsonl"),
        ("models", "alias", "other", "bot@prodution"),
        ("chat", "bot@prodution", "-m", "hi"),
    ],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_mistyped_model_gets_nearest_name(trained: CliEnvironment, argv: tuple[str, ...]) -> None:
    """Also in ``chat``, which takes models that only the provider knows."""
    trained.run("models", "alias", "bot@production", MODEL)
    trained.server.fail_next("chat", Fault(status_error(404, code="model_not_found", message="no such model")))
    ran = trained.run(*argv)
    assert ran.code == 2
    assert "did you mean bot@production?" in ran.err


def test_mistyped_base_gets_nearest_base(cli: CliEnvironment) -> None:
    cli.server.fail_next("chat", Fault(status_error(404, code="model_not_found", message="no such model")))
    ran = cli.run("chat", "smollm2-135m-instrct", "-m", "hi")
    assert ran.code == 2
    assert "did you mean smollm2-135m-instruct?" in ran.err


def test_unknown_model_gets_list_command(trained: CliEnvironment) -> None:
    """If no name is similar."""
    for argv in (("models", "show", "zzz"), ("evaluate", "zzz", "--data", "train.jsonl")):
        assert "ftpipe models list" in trained.run(*argv).err
    trained.server.fail_next("chat", Fault(status_error(404, code="model_not_found", message="no such model")))
    assert "ftpipe models list" in trained.run("chat", "zzz", "-m", "hi").err


def test_models_export_refuses_a_hosted_model(trained: CliEnvironment) -> None:
    """Said before anything is loaded."""
    ran = trained.run("models", "export", MODEL)
    assert ran.code == 2
    assert "does not give out weights" in ran.err


def test_jobs_list_from_registry_and_provider(trained: CliEnvironment) -> None:
    """Only with ``--provider`` a request is sent."""
    before = trained.server.calls["jobs.list"]
    assert "ftjob-1" in trained.run("jobs", "list").out
    assert trained.server.calls["jobs.list"] == before
    trained.server.seed_job()
    assert len(trained.run("jobs", "list", "--provider", "openai", "--json").document["jobs"]) == 2


def test_hint_names_resume_only_for_a_run(trained: CliEnvironment) -> None:
    """A look-up, a deletion and an evaluation have nothing to resume."""
    model = trained.run("models", "list", "--json").document["models"][0]["id"]
    lookups = {
        "jobs.list": ("jobs", "list", "--provider", "openai"),
        "models.delete": ("models", "delete", model, "--yes"),
        "chat": ("evaluate", model, "--data", str(chat_file("test.jsonl", first=20))),
    }
    for call, argv in lookups.items():
        trained.server.fail_next(call, Fault(status_error(401)))
        ran = trained.run(*argv)
        assert (ran.code, "ftpipe resume" in ran.err) == (4, False), ran.err
        assert "run the same command again" in ran.err
    trained.server.fail_next("files.create", Fault(status_error(401)))
    ran = trained.run("train", str(chat_file("other.jsonl", first=40)), *HOSTED)
    assert (ran.code, "then run `ftpipe resume`" in ran.err) == (4, True), ran.err


def test_jobs_events_and_checkpoints_in_order(trained: CliEnvironment) -> None:
    """Oldest first, and by step."""
    events = trained.run("jobs", "events", "--json").document["events"]
    assert [event["data"]["step"] for event in events] == sorted(event["data"]["step"] for event in events)
    points = trained.run("jobs", "checkpoints", "ftjob-1", "--json").document["checkpoints"]
    assert [point["step"] for point in points] == [2, 3]


def test_jobs_checkpoints_shows_a_loss_of_zero(trained: CliEnvironment) -> None:
    """A loss on all validation data that is exactly 0 is not replaced by the one on a sample."""
    checkpoint = FineTuningJobCheckpoint.model_validate(
        {
            "id": "ftckpt-1",
            "created_at": 1,
            "fine_tuned_model_checkpoint": "ft:m:org-test::1:ckpt-step-1",
            "fine_tuning_job_id": "ftjob-1",
            "metrics": {"step": 1, "train_loss": 0.5, "valid_loss": 0.25, "full_valid_loss": 0.0},
            "object": "fine_tuning.job.checkpoint",
            "step_number": 1,
        }
    )
    page = SyncCursorPage[FineTuningJobCheckpoint](data=[checkpoint], has_more=False)
    trained.server.fail_next("checkpoints.list", Fault(response=page))
    row = trained.run("jobs", "checkpoints", "ftjob-1").out.splitlines()[-1]
    assert ("0.0000" in row, "0.25" in row) == (True, False), row


def test_jobs_cancel_updates_the_run(cli: CliEnvironment) -> None:
    """``cancel`` answers with the new status, ``status`` with exit 1."""
    cli.server.statuses = ["running"]
    cli.run("train", str(chat_file()), *HOSTED, "--detach")
    assert cli.run("jobs", "cancel", "ftjob-1").code == 0
    ran = cli.run("status", "ftjob-1")
    assert ran.code == 1
    assert "cancelled" in ran.out


def test_jobs_adopt_registers_a_foreign_job(cli: CliEnvironment) -> None:
    """Its model is registered, and nothing was created."""
    cli.server.statuses = ["succeeded"]
    cli.server.seed_job()
    ran = cli.run("jobs", "adopt", "ftjob-1", "--provider", "openai")
    assert ran.code == 0
    assert len(cli.run("models", "list", "--json").document["models"]) == 1
    assert cli.paid_jobs == 0


def test_status_without_runs_shows_a_hint(cli: CliEnvironment) -> None:
    """An empty registry is a usage error with the next command."""
    ran = cli.run("status")
    assert ran.code == 2
    assert "ftpipe train" in ran.err


def test_chat_by_alias_writes_the_answer_to_stdout(trained: CliEnvironment) -> None:
    """The answer alone is on stdout, and the document carries it whole."""
    trained.run("models", "alias", "bot", MODEL)
    assert trained.run("chat", "bot", "-m", "hello").out.strip() == f"{MODEL} received hello"
    assert trained.run("chat", "-m", "hi", "--json").document["answer"].strip() == f"{MODEL} received hi"


def test_chat_uses_the_system_message_of_training(cli: CliEnvironment) -> None:
    """A tuned model knows its task by it; an empty one leaves it away."""
    rows = [
        {"messages": [
            {"role": "system", "content": "Route the ticket."},
            {"role": "user", "content": f"ticket {number}"},
            {"role": "assistant", "content": f"queue {number}"},
        ]}
        for number in range(12)
    ]  # fmt: skip
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.run("train", "train.jsonl", *HOSTED)
    registry = open_registry()
    assert trained_system(registry, registry.models.get(MODEL)) == "Route the ticket."
    registry.close()
    assert cli.run("chat", "-m", "hello").code == 0


def test_chat_sanitizes_answers(trained: CliEnvironment) -> None:
    """A model cannot write to the terminal's title."""
    out = trained.run("chat", MODEL, "-m", "\x1b]0;owned\x07 \u202e").out
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize(
    "argv", [("status",), ("jobs", "show"), ("jobs", "pause"), ("jobs", "cancel"), ("jobs", "events")]
)
def test_jobs_lookup_of_unknown_job_starts_no_server(
    argv: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the job and the server that was not asked."""
    monkeypatch.setenv("FTPIPE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert execute(root, (*argv, "ftjob-unknown"), CliContext()) == 2
    message = capsys.readouterr().err
    assert "no job 'ftjob-unknown', and the embedded server is not running" in message
    assert not list(tmp_path.rglob("server.json"))


@pytest.mark.parametrize(
    "argv",
    [
        ("status",),
        ("jobs", "show"),
        ("jobs", "pause"),
        ("jobs", "cancel"),
        ("jobs", "events"),
        ("jobs", "delete"),
        ("resume",),
        ("models", "show"),
        ("models", "delete"),
        ("chat", "-m", "hi"),
    ],
    ids=" ".join,
)
def test_unknown_name_is_a_usage_error_everywhere(trained: CliEnvironment, argv: tuple[str, ...]) -> None:
    """Exit code 5 is for a provider or a network that failed."""
    trained.server.fail_next("chat", Fault(status_error(404, code="model_not_found", message="no such model")))
    assert trained.run(*argv, "nobody").code == 2
    assert sum(trained.server.calls[f"jobs.{verb}"] for verb in ("pause", "cancel")) == 0


def test_models_alias_that_does_not_exist_says_so(cli: CliEnvironment) -> None:
    """Alone and by name."""
    assert "no alias yet" in cli.run("models", "alias").err
    assert "no alias bot@live yet" in cli.run("models", "alias", "bot@live").err


def test_status_without_run_shows_the_path(cli: CliEnvironment) -> None:
    """A path, not a database URL."""
    ran = cli.run("status")
    assert ran.code == 2
    assert str(Path(".ftpipe/registry.db").absolute()) in ran.err
    assert "sqlite:" not in ran.err


def test_doctor_repair_of_intact_registry_repairs_nothing(cli: CliEnvironment) -> None:
    """Neither the database nor the provider has anything that is missing."""
    cli.run("models", "list")
    assert "nothing to repair" in cli.run("doctor", "--repair").err


def test_config_path_says_what_a_folder_is_for(cli: CliEnvironment) -> None:
    """The key in JSON stays short."""
    assert "server and models" in cli.run("config", "path").out
    assert "home" in cli.run("config", "path", "--json").document["paths"]


def test_config_shows_origins_and_hides_passwords(cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a value came from is half of the answer."""
    monkeypatch.setenv("FTPIPE_REGISTRY", "postgresql://me:secret-word@db/x")
    Path("ftpipe.toml").write_text('provider = "openai"\n')
    ran = cli.run("config", "show", "--json")
    shown = ran.document["settings"]
    assert shown["provider"] == {"value": "openai", "origin": str(Path("ftpipe.toml").absolute())}
    assert shown["registry"] == {"value": "postgresql://me:***@db/x", "origin": "FTPIPE_REGISTRY"}
    assert "secret-word" not in ran.out + cli.run("config", "path").out


def test_config_set_registry_is_for_all_projects(cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is relative to where it was set; ftpipe.toml, variables and --registry win, each named as the origin."""
    assert cli.run("config", "set", "registry", "team.db").code == 0
    location = str(Path("team.db").absolute())
    origin = str(home() / "config.toml")
    project = Path("project")
    project.mkdir()
    monkeypatch.chdir(project)
    shown = cli.run("config", "path", "--json").document
    assert (shown["paths"]["registry"], shown["registry_origin"]) == (location, origin)
    assert f"{location} ({origin})" in cli.run("doctor").out
    cli.run("train", str(chat_file()), *HOSTED)
    assert Path(location).exists()
    assert not Path(".ftpipe/registry.db").exists()
    for name, registry, argv in (
        (str(Path("ftpipe.toml").absolute()), str(Path("file.db").absolute()), ()),
        ("FTPIPE_REGISTRY", "variable.db", ()),
        ("--registry", str(Path("flag.db").absolute()), ("--registry", "flag.db")),
    ):
        Path("ftpipe.toml").write_text('registry = "file.db"\n')
        if name.startswith("FTPIPE"):
            monkeypatch.setenv(name, registry)
        shown = cli.run("config", "path", "--json", *argv).document
        assert (shown["paths"]["registry"], shown["registry_origin"]) == (registry, name)
    monkeypatch.delenv("FTPIPE_REGISTRY")
    Path("ftpipe.toml").unlink()
    assert cli.run("config", "unset", "registry").code == 0
    shown = cli.run("config", "path", "--json").document
    assert (shown["paths"]["registry"], shown["registry_origin"]) == (str(default_registry()), "default")


def test_config_set_keeps_other_values_and_checks_them(cli: CliEnvironment) -> None:
    """A value that is not valid changes nothing."""
    assert cli.run("config", "set", "max_cost", "2.5").code == 0
    assert cli.run("config", "set", "provider", "openai").code == 0
    for argv, word in (
        (("max_cost", "much"), "not valid"),
        (("provider", "opnai"), "did you mean 'openai'"),
        (("registry", "mysql://host/x"), "mysql"),
        (("registry", "postgresql://me:secret-word@host/x"), "FTPIPE_REGISTRY"),
        (("providr", "openai"), "did you mean provider"),
    ):
        ran = cli.run("config", "set", *argv)
        assert ran.code == 2
        assert word in ran.err
        assert "secret-word" not in ran.err
    settings = cli.run("config", "show", "--json").document["settings"]
    origin = str(home() / "config.toml")
    assert settings["max_cost"] == {"value": 2.5, "origin": origin}
    assert settings["provider"] == {"value": "openai", "origin": origin}


def test_registry_option_refuses_a_password(cli: CliEnvironment) -> None:
    """Others can read command lines."""
    ran = cli.run("models", "list", "--registry", "postgresql://me:secret-word@host/x")
    assert ran.code == 2
    assert "FTPIPE_REGISTRY" in ran.err
    assert "secret-word" not in ran.err


@pytest.mark.parametrize(
    "argv", [("--registry", "mine.db", "models", "list"), ("models", "list", "--registry", "mine.db")]
)
def test_registry_option_is_taken_by_every_command(cli: CliEnvironment, argv: tuple[str, ...]) -> None:
    """Before and after the command."""
    assert cli.run(*argv).code == 0
    assert Path("mine.db").exists()
    assert not Path(".ftpipe/registry.db").exists()


def test_config_shows_example_of_docs(cli: CliEnvironment) -> None:
    """Dates are shown as text."""
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    Path("ftpipe.toml").write_text(example, encoding="utf-8")
    settings = cli.run("config", "show", "--json").document["settings"]
    assert settings["prices"]["value"] == {"their-base-model": {"training": 0.5, "as_of": "2026-11-28"}}
    assert cli.run("config", "show").code == 0


def test_doctor_changes_nothing(cli: CliEnvironment) -> None:
    """It writes a line for each check, and creates no database."""
    ran = cli.run("doctor")
    assert "✗" not in ran.out
    assert ran.code == 0
    assert not Path(".ftpipe").exists()
    assert {check["name"] for check in cli.run("doctor", "--json").document["checks"]} >= {"python", "disk", "prices"}


def test_doctor_reports_what_a_provider_misses(cli: CliEnvironment) -> None:
    """No key for the provider that is configured is broken, with what to do."""
    Path("ftpipe.toml").write_text('provider = "openai"\n')
    ran = cli.run("doctor")
    assert ran.code == 1
    assert "OPENAI_API_KEY" in ran.out


def test_doctor_repair_rebuilds_a_damaged_registry(trained: CliEnvironment) -> None:
    """Nothing is deleted, and the model is back with its lineage."""
    database = Path(".ftpipe/registry.db")
    for companion in Path(".ftpipe").glob("registry.db-*"):
        companion.unlink()
    database.write_bytes(b"not a database" * 1000)
    broken = trained.run("models", "list")
    assert broken.code == 6
    assert "doctor --repair" in broken.err
    assert trained.run("doctor", "--repair", "--provider", "openai").code in (0, 1)
    assert len(list(Path(".ftpipe").glob("registry.db.damaged-*"))) == 1
    assert MODEL in trained.run("models", "list").out
    assert trained.paid_jobs == 1


def test_split_keeps_every_record(cli: CliEnvironment) -> None:
    """Both parts together hold every record."""
    document = cli.run("split", str(chat_file(rows=30)), "--fraction", "0.2", "--output", "out", "--json").document
    assert (document["train"], document["validation"]) == ("out/train.jsonl", "out/validation.jsonl")
    parts = [Path(document[name]).read_text().splitlines() for name in ("train", "validation")]
    assert sum(map(len, parts)) == 30
    assert [document["sizes"][name] for name in ("train", "validation")] == [len(part) for part in parts]
    assert all(json.loads(line) for part in parts for line in part)


def test_split_says_how_many_records_went_where(cli: CliEnvironment) -> None:
    ran = cli.run("split", str(chat_file(rows=30)), "--fraction", "0.2", "--output", "out")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["training", "out/train.jsonl", "24", "records", "80.0%"],
        ["validation", "out/validation.jsonl", "6", "records", "20.0%"],
    ]
    assert "30 different prompts" in ran.err
    assert "Next: ftpipe prepare out/train.jsonl --validation out/validation.jsonl" in ran.err


def test_split_does_not_replace_its_input(cli: CliEnvironment) -> None:
    """The default folder is that of the data, whose name may be the one that is written."""
    data = chat_file("train.jsonl", rows=30)
    before = data.read_bytes()
    ran = cli.run("split", "train.jsonl", "--force")
    assert ran.code == 2
    assert "--output" in ran.err
    assert data.read_bytes() == before
