"""Evaluations are remembered without their items, and found by the models that took part."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from ftpipe.records.evaluation import SamplingParams
from ftpipe.registry import open_registry
from ftpipe.registry.recovery import recover
from tests.evaluation.test_evaluate import run


def test_an_evaluation_is_found_by_its_models_and_kept_once(tmp_path: Path) -> None:
    """Made again it takes the earlier one's place; the items stay out."""
    registry = open_registry(tmp_path / "registry.db")
    first, second = run(), run(sampling=SamplingParams(seed=1))
    for evaluation in (first, first, second):
        registry.save_evaluation(evaluation)
    assert {found.id for found in registry.evaluations("ft:base", "base")} == {first.id, second.id}
    assert registry.evaluations("unknown") == []
    assert registry.evaluations(limit=1)[0].outcomes == ()
    assert registry.evaluations("ft:base")[0].primary_comparison("tuned").verdict == "win"


def test_an_older_database_gets_the_table(tmp_path: Path) -> None:
    """A database of the second migration is carried on, with what it holds."""
    path = tmp_path / "registry.db"
    registry = open_registry(path)
    with registry.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE evaluations"))
        connection.execute(sa.text("DELETE FROM schema_version WHERE number >= 3"))
    registry.close()
    registry = open_registry(path)
    registry.save_evaluation(run())
    assert len(registry.evaluations()) == 1


def test_evaluations_are_salvaged_too(tmp_path: Path) -> None:
    """What a damaged database still holds comes along."""
    old = open_registry(tmp_path / "old.db")
    old.save_evaluation(run())
    old.close()
    new = open_registry(tmp_path / "new.db")
    assert recover(tmp_path / "old.db", new)["evaluations"] == 1
    assert len(new.evaluations()) == 1
