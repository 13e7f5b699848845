"""``ftpipe train --sweep``: the grid, one budget, the best model under an alias."""

from __future__ import annotations

from tests.cli.cli_runner import CliEnvironment, chat_file


def test_sweep_option_is_repeatable(world: CliEnvironment) -> None:
    data = str(chat_file("train.jsonl"))
    ran = world.run(
        "train", data, "--sweep", "epochs=1,3", "--sweep", "lora_r=8,16", "--evaluate", data, "--dry-run", "--json"
    )
    assert ran.document["trials"] == [
        "epochs=1 lora_r=8", "epochs=1 lora_r=16", "epochs=3 lora_r=8", "epochs=3 lora_r=16",
    ]  # fmt: skip
    assert world.run("train", data, "--sweep", "epochs=1,3", "lora_r=8,16", "--evaluate", data, "--dry-run").code == 2


def test_a_sweep_ends_with_the_best_model_under_the_alias(world: CliEnvironment) -> None:
    """Compared on the held-out file; a second call trains nothing again."""
    train, test = str(chat_file("train.jsonl")), str(chat_file("test.jsonl", first=50))
    asked = (
        "train", train, "--provider", "openai", "--yes",
        "--sweep", "epochs=1,3", "--sweep", "learning_rate_multiplier=0.5,2",
        "--evaluate", test, "--alias", "desk@best", "--json",
    )  # fmt: skip
    ran = world.run(*asked)
    assert ran.code == 0, ran.err
    sweep = ran.document["sweep"]
    assert (len(sweep["trials"]), sweep["compared_by"], sweep["alias"]) == (4, "held-out score", "desk@best")
    assert world.run("models", "show", "desk@best", "--json").document["model"]["id"] == sweep["best_model"]
    again = world.run(*asked[:-1])
    assert f"best by held-out score: desk@best → {sweep['best_model']}" in again.out
    assert "validation loss" not in again.out
    assert world.paid_jobs == 4


def test_a_dry_run_and_a_budget_send_nothing(world: CliEnvironment) -> None:
    """The plan is shown, trial by trial; the sum is refused."""
    data = str(chat_file("train.jsonl"))
    asked = ("train", data, "--provider", "openai", "--sweep", "epochs=1,3", "--evaluate", data)
    shown = world.run(*asked, "--dry-run")
    assert (shown.code, "epochs=3" in shown.err, "up to 0.0" in shown.err) == (0, True, True)
    free = world.run("train", data, "--provider", "local", "--sweep", "epochs=1,3", "--evaluate", data, "--dry-run")
    assert "2 trials, free" in free.err
    assert world.run(*asked, "--yes", "--max-cost", "0.000001").code == 1
    assert world.run(*asked).code == 2
    assert world.run("train", data, "--sweep", "n_epochs=1,3").code == 2
    assert world.paid_jobs == 0


def test_a_sweep_that_could_not_be_compared_is_refused_before_it_is_paid(world: CliEnvironment) -> None:
    """Neither validation data nor held-out items."""
    ran = world.run("train", str(chat_file()), "--provider", "openai", "--yes", "--sweep", "epochs=1,3")
    assert (ran.code, world.paid_jobs) == (2, 0)
    assert "--evaluate" in ran.err


def test_trials_without_a_validation_loss_are_not_ranked(world: CliEnvironment) -> None:
    """The mocked endpoint reports none even with a validation file; the models stay, and the hint says what to do."""
    files = str(chat_file("train.jsonl")), "--validation", str(chat_file("valid.jsonl", first=30))
    ran = world.run("train", *files, "--provider", "openai", "--yes", "--sweep", "epochs=1,3")
    assert (ran.code, world.paid_jobs) == (2, 2)
    assert "--evaluate" in ran.err


def test_a_trial_that_goes_on_is_told_now_and_then(world: CliEnvironment) -> None:
    """Step and losses, at most once in 10 seconds."""
    from ftpipe.cli.commands.train_sweep import TrialReporter
    from ftpipe.registry import open_registry
    from tests.cli.cli_runner import FakeCliContext

    world.run("train", str(chat_file("train.jsonl")), "--provider", "openai", "--yes", "--epochs", "3")
    registry = open_registry()
    [run] = registry.runs.recent()
    now = [100.0]
    said: list[str] = []

    class Listener(FakeCliContext):
        """Keeps what is said."""

        def print_status(self, lines: object = "") -> None:
            """Keep it."""
            said.append(str(lines))

    teller = TrialReporter(Listener(), registry, lambda: now[0])
    for second in range(100, 131):
        now[0] = float(second)
        teller.on_progress("epochs=3", run)
    registry.close()
    assert said[0].startswith("  epochs=3  step 3")
    assert len(said) == 4
