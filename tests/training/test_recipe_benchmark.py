"""The benchmark of recipes: its tasks, its journal, the order of its runs and its tables."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import recipes
from tests.benchmarks.recipe_table import clearly_worse, log_losses, mean_over_tasks, regrets, tables
from tests.benchmarks.recipe_tasks import FACT_QUESTIONS, TEST_ROWS, TRAINING_ROWS, Task, all_tasks, whole_support_desk
from tests.benchmarks.recipes import RECIPES, Journal, Plan, Run, Runner, main, run_all

EFFECTS = {"brief": 0.3, "all-linear": 0.0, "rank 8": 0.02, "rank 32": 1.0}
"""How much the logarithm of a recipe's loss is above that of the best one, in made-up rows."""
TASKS = ("labels", "style", "code", "facts")


def row(recipe: str, task: str, seed: int, loss: float) -> dict[str, Any]:
    """A row of the journal."""
    run = {"base": "base", "task": task, "seed": seed, "recipe": recipe, "settings": RECIPES[recipe]}
    return {**run, "loss": loss, "exact": 6, "questions": 8, "cpu_seconds": 20.0 if recipe == "brief" else 30.0}


def made_rows(seeds: int) -> list[dict[str, Any]]:
    """Losses with the effects of recipes, and noise that is the same for all recipes of a task and seed."""
    return [
        row(recipe, task, seed, math.exp(effect - index - seed / 10))
        for recipe, effect in EFFECTS.items()
        for index, task in enumerate(TASKS)
        for seed in range(1, seeds + 1)
    ]


@pytest.mark.parametrize("task", [*all_tasks().values(), whole_support_desk()], ids=lambda task: task.name)
def test_task_rows_are_repeatable_and_disjoint(task: Task) -> None:
    """No held-out question is trained on, whatever the seed; no question stands twice."""
    test = {question for question, _ in task.test()}
    assert len(test) == len(task.test()) >= TEST_ROWS
    assert task.test() == task.test()
    for seed in (1, 2, 3):
        training = task.training(seed)
        questions = {question for question, _ in training}
        assert training == task.training(seed)
        assert len(questions) == len(training) >= TRAINING_ROWS
        assert not questions & test


@pytest.mark.parametrize("task", all_tasks().values(), ids=lambda task: task.name)
def test_task_training_rows_depend_on_the_seed(task: Task) -> None:
    assert task.training(1) != task.training(2)


def test_task_digest_depends_on_the_rows() -> None:
    task = all_tasks()["style"]
    assert task.digest(1) == task.digest(1) != task.digest(2)


def test_facts_of_held_out_questions_are_trained() -> None:
    """In other words; that is the point of the task."""
    task = all_tasks()["facts"]
    answers = {answer for _, answer in task.training(1)}
    assert {answer for _, answer in task.test()} == answers
    assert len(FACT_QUESTIONS) >= TRAINING_ROWS // TEST_ROWS


def test_code_of_the_code_task_runs() -> None:
    """Indentation included: every answer is a function."""
    for _, answer in all_tasks()["code"].training(1):
        assert answer.count("\n") == 5
        compile(answer, "answer", "exec")


def test_recipes_differ_from_each_other() -> None:
    """And only in what their names say from all-linear, except for those on q_proj and v_proj."""
    settings = [tuple(sorted(recipe.items())) for recipe in RECIPES.values()]
    assert len(set(settings)) == len(settings)
    for name, recipe in list(RECIPES.items())[3:]:
        assert sum(recipe[key] != value for key, value in recipes.COMMON.items()) == 1, name


def test_plan_makes_all_recipes_of_a_task_then_the_next_task() -> None:
    runs = list(Plan("base", ("a", "b"), ("x", "y"), seeds=2, drop_after=0).runs([]))
    order = [(run.seed, run.task, run.recipe) for run in runs]
    assert order == [(seed, task, recipe) for seed in (1, 2) for task in "ab" for recipe in "xy"]


def test_plan_leaves_out_recipes_that_are_clearly_worse() -> None:
    """After whole seeds only, and never the two that the question is about."""
    plan = Plan("base", TASKS, tuple(EFFECTS), seeds=3, drop_after=2)
    left = {run.recipe for run in plan.runs(made_rows(2)) if run.seed == 3}
    assert left == {"brief", "all-linear"}
    incomplete = made_rows(2)[:-1]
    assert {run.recipe for run in plan.runs(incomplete) if run.seed == 3} == set(EFFECTS)


def test_plan_does_not_compare_runs_from_other_bases() -> None:
    plan = Plan("other", TASKS, tuple(EFFECTS), seeds=3, drop_after=2)
    assert {run.recipe for run in plan.runs(made_rows(2)) if run.seed == 3} == set(EFFECTS)


def test_clearly_worse_needs_the_same_direction_in_the_tasks() -> None:
    """A recipe that is better in one task and worse in others stays."""
    rows = [item for item in made_rows(2) if item["recipe"] != "rank 32"]
    rows += [
        row("rank 32", task, seed, math.exp((-0.9, 0.6, 0.5, 0.4)[index] - index - seed / 10))
        for index, task in enumerate(TASKS)
        for seed in (1, 2)
    ]
    assert "rank 32" not in clearly_worse(rows, list(EFFECTS), TASKS, (1, 2))
    assert "brief" in clearly_worse(rows, list(EFFECTS), TASKS, (1, 2))


def test_regret_is_the_distance_to_the_best_recipe_of_the_task() -> None:
    losses = log_losses(made_rows(3))
    interval = mean_over_tasks(regrets(losses, "brief", list(EFFECTS), TASKS))
    assert (interval.low, interval.value, interval.high) == pytest.approx((0.3, 0.3, 0.3))
    assert mean_over_tasks(regrets(losses, "all-linear", list(EFFECTS), TASKS)).value == 0


def test_tables_have_regrets_with_intervals() -> None:
    """Of the recipes that were run; e to the 0.3 is 1.35."""
    text = tables(made_rows(3), list(RECIPES), TASKS)
    assert "| brief | 12 | 3 | +35% (+35% to +35%) |  | 75% | 1.00 |" in text
    assert "| all-linear | 12 | 3 | +0% (+0% to +0%) | -26% (-26% to -26%) | 75% | 1.50 |" in text
    assert "dropout 0" not in text


def test_journal_ignores_torn_lines_and_other_definitions(tmp_path: Path) -> None:
    """A process can be killed while it writes, and a recipe can be changed."""
    journal = Journal(tmp_path / "journal.jsonl")
    runs = [Run("base", "labels", 1, recipe) for recipe in ("brief", "rank 8", "rank 32")]
    journal.add(runs[0], {"loss": 1.0})
    with journal.path.open("a") as file:
        file.write('{"base": "ba')
    assert journal.runs() == {runs[0]}
    journal.add(runs[1], {"loss": 1.0})
    journal.path.write_text(journal.path.read_text("utf-8").replace('"lora_r": 8', '"lora_r": 9'), encoding="utf-8")
    journal.add(runs[2], {"loss": 1.0})
    other_rows = json.dumps({**json.loads(journal.path.read_text("utf-8").splitlines()[-1]), "seed": 2})
    with journal.path.open("a") as file:
        file.write(other_rows)
    assert journal.runs() == {runs[0], runs[2]}


def test_journal_claims_are_of_one_process(tmp_path: Path) -> None:
    """They end with the run."""
    run = Run("base", "tool calls", 1, "rate 2e-4 (10 x full)")
    first, second = Journal(tmp_path / "journal.jsonl"), Journal(tmp_path / "journal.jsonl")
    with first.claim(run) as is_ours:
        assert is_ours
        with second.claim(run) as is_theirs:
            assert not is_theirs
    with second.claim(run) as is_theirs:
        assert is_theirs


class FakeRunner:
    """Measures nothing."""

    def __init__(self, on_run: Callable[[int], None] = lambda _count: None) -> None:
        self.measured: list[Run] = []
        self.on_run = on_run

    def measure(self, run: Run) -> dict[str, Any]:
        """A loss."""
        self.measured.append(run)
        self.on_run(len(self.measured))
        return {"loss": 0.5, "exact": 1, "questions": 2, "seconds": 1.0}


def test_runs_in_the_journal_are_not_repeated(tmp_path: Path) -> None:
    """A stopped benchmark loses the run in progress only."""

    def stop(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    plan = Plan("base", ("labels", "style"), ("brief", "rank 8"), seeds=1, drop_after=0)
    journal, first, second = Journal(tmp_path / "journal.jsonl"), FakeRunner(stop), FakeRunner()
    with pytest.raises(KeyboardInterrupt):
        run_all(plan, journal, first, deadline=math.inf)
    assert run_all(plan, journal, second, deadline=math.inf)
    assert second.measured == list(plan.runs([]))[2:]
    assert not run_all(Plan("base", ("code",), ("brief",), 1, 0), journal, FakeRunner(), deadline=time.monotonic() - 1)


def test_run_of_another_process_is_left_and_not_complete(tmp_path: Path) -> None:
    """The caller removes the locks of a complete benchmark; another process still needs its own."""
    plan = Plan("base", ("labels",), ("brief", "rank 8"), seeds=1, drop_after=0)
    journal, other, runner = Journal(tmp_path / "journal.jsonl"), Journal(tmp_path / "journal.jsonl"), FakeRunner()
    theirs, ours = plan.runs([])
    with other.claim(theirs):
        assert not run_all(plan, journal, runner, deadline=math.inf)
    assert runner.measured == [ours]


def test_table_has_one_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for base, exact in (("first", 1), ("second", 2)):
        journal.add(Run(base, "labels", 1, "brief"), {"loss": 1.0, "exact": exact, "questions": 2})
    main(["--journal", str(journal.path), "--base", "first", "--table"])
    assert "| brief | 1.000, 50% |" in capsys.readouterr().out


def test_unknown_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no 'rank 7'; known: brief"):
        main(["--journal", str(tmp_path / "journal.jsonl"), "--recipes", "rank 7", "--table"])


@pytest.mark.slow
def test_runner_trains_and_scores_with_the_tiny_base(base: Path, tmp_path: Path) -> None:
    """A real job: its loss is that of training's own scoring, and the same again with the same seed."""
    task = all_tasks()["facts"]
    short = Task(task.name, task.system, lambda seed: task.training(seed)[:8], lambda: task.test()[:2])
    runner = Runner(base, {"facts": short})
    first = runner.measure(Run("tiny", "facts", 1, "brief"))
    assert 0 < first["loss"] < 10
    assert (first["exact"], first["questions"]) == (0, 2)
    assert first["cpu_seconds"] > 0
    assert runner.measure(Run("tiny", "facts", 1, "brief"))["loss"] == first["loss"]
    assert runner.measure(Run("tiny", "facts", 2, "brief"))["loss"] != first["loss"]
