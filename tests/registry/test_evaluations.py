"""Evaluations are remembered without their items, and evaluation by the models that took part."""

from __future__ import annotations

from pathlib import Path

from ftpipe.records.evaluation import SamplingParams
from ftpipe.registry import open_registry
from ftpipe.registry.recovery import recover
from tests.evaluation.test_evaluate import run


def test_evaluations_are_saved_once_and_found_by_model(tmp_path: Path) -> None:
    """Made again it takes the earlier one's place; the items stay out."""
    registry = open_registry(tmp_path / "registry.db")
    first, second = run(), run(sampling=SamplingParams(seed=1))
    for evaluation in (first, first, second):
        registry.evaluations.save(evaluation)
    assert {evaluation.id for evaluation in registry.evaluations.recent("ft:base", "base")} == {first.id, second.id}
    assert registry.evaluations.recent("unknown") == []
    assert registry.evaluations.recent(limit=1)[0].outcomes == ()
    assert registry.evaluations.recent("ft:base")[0].primary_comparison("tuned").verdict == "win"


def test_recover_copies_evaluations(tmp_path: Path) -> None:
    """What a damaged database still holds comes along."""
    old = open_registry(tmp_path / "old.db")
    old.evaluations.save(run())
    old.close()
    new = open_registry(tmp_path / "new.db")
    assert recover(tmp_path / "old.db", new)["evaluations"] == 1
    assert len(new.evaluations.recent()) == 1
