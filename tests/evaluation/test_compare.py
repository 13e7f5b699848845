"""Comparisons give a verdict only if the data support it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpipe.evaluation.compare import EQUIVALENCE_MARGIN, Evidence, compare
from ftpipe.evaluation.metrics import METRICS
from ftpipe.records.evaluation import Arm, Comparison, Outcome
from ftpipe.reports.evaluation.wording import verdict_note, verdict_title
from tests.evaluation.factories import answer, item


def outcomes(*arms: list[float], metric: str = "exact", clusters: list[str] | None = None) -> list[Outcome]:
    """Items with given scores for the arms ``a``, ``b`` and so on."""
    names = "abcdef"[: len(arms)]
    return [
        Outcome(
            item=item("x", number=index, cluster=clusters[index] if clusters else ""),
            answers={name: (answer("x"),) for name in names},
            scores={name: {metric: arm[index]} for name, arm in zip(names, arms, strict=True)},
        )
        for index in range(len(arms[0]))
    ]


def compare_arms(*arms: list[float], metric: str = "exact", clusters: list[str] | None = None) -> list[Comparison]:
    """Every other arm against the first."""
    evidence = Evidence(outcomes(*arms, metric=metric, clusters=clusters), [METRICS[metric]])
    return list(compare(evidence, [Arm(name=name, model="m") for name in "abcdef"[: len(arms)]], [metric], metric))


def test_comparison_clear_gain_is_a_win_and_reversed_a_loss() -> None:
    """Ten of fifty items better, none worse."""
    worse, better = [0.0] * 10 + [1.0] * 40, [1.0] * 50
    [win], [loss] = compare_arms(worse, better), compare_arms(better, worse)
    assert (win.verdict, loss.verdict) == ("win", "loss")
    assert win.p_value == loss.p_value == pytest.approx(2 / 2**10)
    assert win.difference == -loss.difference == 0.2
    assert (win.only_baseline, win.only_challenger) == (0, 10)
    assert win.additional_items is None


def test_comparison_small_gain_estimates_additional_items() -> None:
    """Two better and one worse of thirty is inconclusive."""
    before = [0.0, 0.0, 1.0] + [1.0] * 27
    after = [1.0, 1.0, 0.0] + [1.0] * 27
    [comparison] = compare_arms(before, after)
    assert comparison.verdict == "inconclusive"
    assert comparison.additional_items is not None
    assert comparison.additional_items > 500


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_comparison_of_identical_arms_is_inconclusive(values: list[float]) -> None:
    [comparison] = compare_arms(values, list(values))
    assert (comparison.verdict, comparison.p_value, comparison.difference) == ("inconclusive", 1, 0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2), st.randoms())
def test_comparison_ignores_the_order_of_items(pairs: list[tuple[float, float]], generator: random.Random) -> None:
    """Only the counts per arm matter."""
    mixed = list(pairs)
    generator.shuffle(mixed)
    one = compare_arms([a for a, _ in pairs], [b for _, b in pairs])
    other = compare_arms([a for a, _ in mixed], [b for _, b in mixed])
    assert one == other


def test_comparison_coin_flip_is_inconclusive() -> None:
    """Two arms that guess, on 100 items: inconclusive in at least 95 of 100 repeats."""
    generator = random.Random(2026)
    inconclusive = 0
    for _ in range(100):
        arms = [[float(generator.getrandbits(1)) for _ in range(100)] for _ in range(2)]
        inconclusive += compare_arms(*arms)[0].verdict == "inconclusive"
    assert inconclusive >= 95


@pytest.mark.slow
def test_comparison_false_positive_rate() -> None:
    """Five of 100 on average; more than eleven happens once in 100 runs."""
    generator = random.Random(2026)
    inconclusive = 0
    for _ in range(100):
        arms = [[generator.getrandbits(1) / 2 + generator.random() / 2 for _ in range(30)] for _ in range(2)]
        inconclusive += compare_arms(*arms, metric="rouge_l")[0].verdict == "inconclusive"
    assert inconclusive >= 89


def test_comparison_of_scores_uses_the_bootstrap() -> None:
    """A small, steady gain over many items is a win."""
    before = [index % 10 / 10 for index in range(60)]
    after = [value + (0.05 if index % 3 else -0.01) for index, value in enumerate(before)]
    [comparison] = compare_arms(before, after, metric="rouge_l")
    assert comparison.verdict == "win"
    assert comparison.method == "paired bootstrap"
    assert comparison.low is not None
    assert 0 < comparison.low < comparison.difference


def test_comparison_corrects_several_challengers_together() -> None:
    """A win alone can be inconclusive among five."""
    before = [0.0] * 6 + [1.0] * 44
    better = [1.0] * 50
    [alone] = compare_arms(before, better)
    among = compare_arms(before, better, before, before, before, before)
    assert alone.verdict == "win"
    assert among[0].p_value == alone.p_value
    assert among[0].p_value_adjusted == pytest.approx(alone.p_value * 5)
    assert among[0].verdict == "inconclusive"


def test_comparison_resamples_whole_clusters() -> None:
    """Ten better turns of one dialogue are one observation."""
    before, after = [0.0] * 10 + [1.0] * 10, [1.0] * 20
    clusters = ["one"] * 10 + [f"c{index}" for index in range(10)]
    assert compare_arms(before, after)[0].verdict == "win"
    [clustered] = compare_arms(before, after, clusters=clusters)
    assert clustered.verdict == "inconclusive"
    assert clustered.method == "paired bootstrap by cluster"


def test_comparison_of_one_item_has_no_interval() -> None:
    """Infinite ends are ``None`` in the record."""
    [comparison] = compare_arms([0.2], [0.9], metric="rouge_l")
    assert (comparison.low, comparison.high, comparison.verdict) == (None, None, "inconclusive")


@pytest.mark.parametrize("metric", ["exact", "rouge_l"])
def test_comparison_of_five_items_is_never_about_equal(metric: str) -> None:
    """Neither five items that all improve, nor five with the same scores."""
    [better] = compare_arms([0.0] * 5, [1.0] * 5, metric=metric)
    [same] = compare_arms([1.0] * 5, [1.0] * 5, metric=metric)
    assert "equivalent" not in (better.verdict, same.verdict)
    assert "equal" not in f"{verdict_title(better)} {verdict_note(better)} {verdict_title(same)} {verdict_note(same)}"
    if metric == "exact":
        assert (better.difference, better.verdict) == (1.0, "inconclusive")
        assert better.additional_items is not None and better.additional_items > 0


@pytest.mark.parametrize(
    ("scores", "metric", "verdict"),
    [
        ([1.0] * 400, "exact", "equivalent"),
        ([1.0] * 60, "exact", "inconclusive"),
        ([0.5] * 149, "rouge_l", "equivalent"),
        ([0.5] * 148, "rouge_l", "inconclusive"),
    ],
)
def test_comparison_of_equal_arms_is_equivalent_only_with_enough_items(
    scores: list[float], metric: str, verdict: str
) -> None:
    [comparison] = compare_arms(scores, list(scores), metric=metric)
    assert comparison.verdict == verdict
    if verdict == "equivalent":
        assert comparison.low is not None and comparison.high is not None
        assert -EQUIVALENCE_MARGIN <= comparison.low <= comparison.high <= EQUIVALENCE_MARGIN
        assert (verdict_title(comparison), comparison.additional_items) == ("b and a are about equal", None)


def test_comparison_outside_the_margin_is_not_equivalent() -> None:
    """A steady difference of three points is a win, one that varies is open."""
    before = [index % 10 / 20 for index in range(400)]
    [steady] = compare_arms(before, [value + 0.03 for value in before], metric="rouge_l")
    after = [value + (0.4 if index % 2 else -0.38) for index, value in enumerate(before)]
    [varied] = compare_arms(before, after, metric="rouge_l")
    assert (steady.verdict, varied.verdict) == ("win", "inconclusive")


def test_comparison_of_clusters_counts_clusters_for_equivalence() -> None:
    scores, clusters = [1.0] * 400, [f"dialogue {index // 4}" for index in range(400)]
    assert compare_arms(scores, scores, clusters=clusters)[0].verdict == "inconclusive"


def test_verdict_note_without_additional_items_has_its_own_sentence() -> None:
    [comparison] = compare_arms([0.0] * 5, [1.0] * 5)
    note = verdict_note(comparison.model_copy(update={"additional_items": 0}))
    assert "does not confirm it" in note and "equal" not in note
