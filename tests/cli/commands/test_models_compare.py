"""``ftpipe models compare`` and ``show``: differences and results of evaluations."""

from __future__ import annotations

from tests.cli.cli_runner import CliEnvironment, chat_file


def test_models_compare_shows_differences_and_evaluation(cli: CliEnvironment) -> None:
    """What differs, and who was better where both were evaluated."""
    names = []
    for first in (0, 40):
        path = str(chat_file(f"train{first}.jsonl", first=first))
        ran = cli.run("train", path, "--provider", "openai", "--yes", "--epochs", "2", "--json")
        names.append(ran.document["model"]["id"])
    before = cli.run("models", "compare", *names)
    assert before.code == 0
    assert "no evaluation has both" in before.err
    data = str(chat_file("test.jsonl", first=80))
    assert cli.run("evaluate", names[1], "--baseline", names[0], "--data", data).code == 0
    after = cli.run("models", "compare", *names)
    assert "Not enough evidence" in after.out
    assert all(name in after.out for name in names)
    assert "evaluations" in cli.run("models", "show", names[0]).out
    document = cli.run("models", "compare", *names, "--json").document
    assert (document["schema"], len(document["models"]), len(document["evaluations"])) == (
        "ftpipe.models.compare/1",
        2,
        1,
    )


def test_models_compare_refuses_an_unknown_model(cli: CliEnvironment) -> None:
    """With the way to the list."""
    ran = cli.run("models", "compare", "a", "b")
    assert ran.code == 2
    assert "models list" in ran.err
