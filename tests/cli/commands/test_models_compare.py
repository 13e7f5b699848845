"""``ftpipe models compare`` and ``show`` tell what evaluations said."""

from __future__ import annotations

from tests.cli.cli_runner import CliEnvironment, chat_file


def test_two_models_are_shown_side_by_side_with_their_evaluation(world: CliEnvironment) -> None:
    """What differs, and who was better where both were evaluated."""
    names = []
    for first in (0, 40):
        path = str(chat_file(f"train{first}.jsonl", first=first))
        ran = world.run("train", path, "--provider", "openai", "--yes", "--epochs", "2", "--json")
        names.append(ran.document["model"]["id"])
    before = world.run("models", "compare", *names)
    assert before.code == 0
    assert "no evaluation has both" in before.err
    data = str(chat_file("test.jsonl", first=80))
    assert world.run("evaluate", names[1], "--baseline", names[0], "--data", data).code == 0
    after = world.run("models", "compare", *names)
    assert "Not enough evidence" in after.out
    assert all(name in after.out for name in names)
    assert "evaluations" in world.run("models", "show", names[0]).out
    document = world.run("models", "compare", *names, "--json").document
    assert (document["schema"], len(document["models"]), len(document["evaluations"])) == (
        "ftpipe.models.compare/1",
        2,
        1,
    )


def test_an_unknown_model_is_refused(world: CliEnvironment) -> None:
    """With the way to the list."""
    ran = world.run("models", "compare", "a", "b")
    assert ran.code == 2
    assert "models list" in ran.err
