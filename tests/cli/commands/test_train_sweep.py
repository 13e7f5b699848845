"""``ftpipe train --sweep``: the grid, one budget, the best model under an alias."""

from __future__ import annotations

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.fakes.openai_client import Fault, status_error


def test_sweep_option_is_repeatable(cli: CliEnvironment) -> None:
    data = str(chat_file("train.jsonl"))
    ran = cli.run(
        "train", data, "--sweep", "epochs=1,3", "--sweep", "lora_rank=8,16", "--evaluate", data, "--dry-run", "--json"
    )
    assert ran.document["trials"] == [
        "epochs=1 lora_rank=8", "epochs=1 lora_rank=16", "epochs=3 lora_rank=8", "epochs=3 lora_rank=16",
    ]  # fmt: skip
    assert cli.run("train", data, "--sweep", "epochs=1,3", "lora_rank=8,16", "--evaluate", data, "--dry-run").code == 2


def test_sweep_sets_the_alias_to_the_best_model(cli: CliEnvironment) -> None:
    """Compared on the held-out file; a second call trains nothing again."""
    train, test = str(chat_file("train.jsonl")), str(chat_file("test.jsonl", first=50))
    argv = (
        "train", train, "--provider", "openai", "--yes",
        "--sweep", "epochs=1,3", "--sweep", "learning_rate_multiplier=0.5,2",
        "--evaluate", test, "--alias", "desk@best", "--json",
    )  # fmt: skip
    ran = cli.run(*argv)
    assert ran.code == 0, ran.err
    sweep = ran.document["sweep"]
    assert (len(sweep["trials"]), sweep["compared_by"], sweep["alias"]) == (4, "held-out score", "desk@best")
    assert cli.run("models", "show", "desk@best", "--json").document["model"]["id"] == sweep["best_model"]
    again = cli.run(*argv[:-1])
    assert f"best by held-out score: desk@best → {sweep['best_model']}" in again.out
    assert "valid loss" not in again.out
    assert cli.paid_jobs == 4
    limited = cli.run(*argv, "--max-tokens", "9").document
    assert (limited["evaluation"]["sampling"]["max_tokens"], cli.paid_jobs) == (9, 4)


def test_sweep_dry_run_and_budget_send_nothing(cli: CliEnvironment) -> None:
    """The plan is shown, trial by trial; the sum is refused."""
    data = str(chat_file("train.jsonl"))
    argv = ("train", data, "--provider", "openai", "--sweep", "epochs=1,3", "--evaluate", data)
    shown = cli.run(*argv, "--dry-run")
    assert (shown.code, "epochs=3" in shown.err, "up to 0.0" in shown.err) == (0, True, True)
    free = cli.run("train", data, "--provider", "local", "--sweep", "epochs=1,3", "--evaluate", data, "--dry-run")
    assert "2 trials, free" in free.err
    assert cli.run(*argv, "--yes", "--max-cost", "0.000001").code == 1
    assert cli.run(*argv).code == 2
    assert cli.run("train", data, "--sweep", "n_epochs=1,3").code == 2
    assert cli.paid_jobs == 0


def test_sweep_needs_data_to_compare_before_it_is_paid(cli: CliEnvironment) -> None:
    """Neither validation data nor held-out items."""
    ran = cli.run("train", str(chat_file()), "--provider", "openai", "--yes", "--sweep", "epochs=1,3")
    assert (ran.code, cli.paid_jobs) == (2, 0)
    assert "--evaluate" in ran.err


def test_sweep_without_validation_loss_ranks_nothing(cli: CliEnvironment) -> None:
    """The mocked endpoint reports none even with a validation file; the models stay, and the hint says what to do."""
    files = str(chat_file("train.jsonl")), "--validation", str(chat_file("valid.jsonl", first=30))
    ran = cli.run("train", *files, "--provider", "openai", "--yes", "--sweep", "epochs=1,3")
    assert (ran.code, cli.paid_jobs) == (2, 2)
    assert "--evaluate" in ran.err


def test_sweep_reports_progress_of_a_trial_now_and_then(cli: CliEnvironment) -> None:
    """Step and losses, at most once in 10 seconds."""
    from ftpipe.cli.commands.train_sweep import TrialReporter
    from ftpipe.registry import open_registry
    from tests.cli.cli_runner import FakeCliContext

    cli.run("train", str(chat_file("train.jsonl")), "--provider", "openai", "--yes", "--epochs", "3")
    registry = open_registry()
    [run] = registry.runs.recent()
    now = [100.0]
    written: list[str] = []

    class RecordingContext(FakeCliContext):
        """Collects the lines."""

        def print_status(self, lines: object = "") -> None:
            written.append(str(lines))

    reporter = TrialReporter(RecordingContext(), registry, lambda: now[0])
    for second in range(100, 131):
        now[0] = float(second)
        reporter.on_progress("epochs=3", run)
    registry.close()
    assert written[0].startswith("  epochs=3  step 3")
    assert len(written) == 4


def test_bars_end_when_a_search_pauses_a_trial_and_count_it_once(cli: CliEnvironment) -> None:
    """Also if a trial has a model in each of several rounds."""
    from ftpipe.cli.commands.train_sweep import TrialBars
    from ftpipe.records import RunState
    from ftpipe.registry import open_registry
    from tests.cli.cli_runner import FakeCliContext

    cli.run("train", str(chat_file("train.jsonl")), "--provider", "openai", "--yes", "--epochs", "3")
    registry = open_registry()
    [trained] = registry.runs.recent()
    paused = trained.model_copy(update={"state": RunState.CREATED})
    bars = TrialBars(FakeCliContext(), registry, trials=2)
    shown = []
    for run in (paused, paused, paused, trained, trained):
        bars.on_trial("epochs=3", run)
        shown.append([(task.description, task.completed) for task in bars._bars.tasks])
    registry.close()
    start, running = ("trials", 0), [("trials", 0), ("epochs=3", 0)]
    assert shown == [running, [start], running, [("trials", 1)], [("trials", 1)]]


def test_sweep_of_unknown_hosted_base_is_refused_before_the_question(cli: CliEnvironment) -> None:
    """Nothing is uploaded, no trial is recorded, and nobody is asked to pay."""
    cli.server.fail_next("models.retrieve", Fault(status_error(404, code="model_not_found")))
    data = str(chat_file())
    options = ("--provider", "openai", "--model", "gpt-9", "--sweep", "epochs=1,3", "--evaluate", data)
    ran = cli.run("train", data, *options)
    assert (ran.code, "has no base model 'gpt-9'" in ran.err) == (5, True)
    assert cli.server.calls == {"models.retrieve": 1}
    assert cli.run("status").code == 2
