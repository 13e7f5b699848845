"""Scores become evidence: verdicts only where the data carry them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpipe.evaluation.compare import Evidence, compare
from ftpipe.evaluation.metrics import METRICS
from ftpipe.records.evaluation import Arm, Comparison, Outcome
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


def verdict(*arms: list[float], metric: str = "exact", clusters: list[str] | None = None) -> list[Comparison]:
    """Every further arm against the first."""
    evidence = Evidence(outcomes(*arms, metric=metric, clusters=clusters), [METRICS[metric]])
    return list(compare(evidence, [Arm(name=name, model="m") for name in "abcdef"[: len(arms)]], [metric], metric))


def test_a_clear_gain_is_a_win_and_turned_round_a_loss() -> None:
    """Ten of fifty items better, none worse."""
    worse, better = [0.0] * 10 + [1.0] * 40, [1.0] * 50
    [win], [loss] = verdict(worse, better), verdict(better, worse)
    assert (win.verdict, loss.verdict) == ("win", "loss")
    assert win.p_value == loss.p_value == pytest.approx(2 / 2**10)
    assert win.difference == -loss.difference == 0.2
    assert (win.only_baseline, win.only_challenger) == (0, 10)
    assert win.additional_items is None


def test_a_small_gain_says_how_many_items_are_missing() -> None:
    """Two better and one worse of thirty is nothing yet."""
    before = [0.0, 0.0, 1.0] + [1.0] * 27
    after = [1.0, 1.0, 0.0] + [1.0] * 27
    [found] = verdict(before, after)
    assert found.verdict == "inconclusive"
    assert found.additional_items is not None
    assert found.additional_items > 500


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_identical_arms_give_no_verdict(values: list[float]) -> None:
    """Whatever the scores are."""
    [found] = verdict(values, list(values))
    assert (found.verdict, found.p_value, found.difference) == ("inconclusive", 1, 0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2), st.randoms())
def test_the_order_of_items_is_irrelevant(pairs: list[tuple[float, float]], generator: random.Random) -> None:
    """Only how many are right in which arm."""
    mixed = list(pairs)
    generator.shuffle(mixed)
    one = verdict([a for a, _ in pairs], [b for _, b in pairs])
    other = verdict([a for a, _ in mixed], [b for _, b in mixed])
    assert one == other


def test_a_coin_flip_pair_is_left_undecided_in_at_least_95_of_100_repeats() -> None:
    """Two arms that guess, on 100 items: the exact test errs in fewer than five of a hundred."""
    generator = random.Random(2026)
    undecided = 0
    for _ in range(100):
        arms = [[float(generator.getrandbits(1)) for _ in range(100)] for _ in range(2)]
        undecided += verdict(*arms)[0].verdict == "inconclusive"
    assert undecided >= 95


def test_guessed_scores_are_told_apart_no_more_often_than_the_error_allows() -> None:
    """Five of a hundred on average; more than eleven would come up once in a hundred runs."""
    generator = random.Random(2026)
    undecided = 0
    for _ in range(100):
        arms = [[generator.getrandbits(1) / 2 + generator.random() / 2 for _ in range(30)] for _ in range(2)]
        undecided += verdict(*arms, metric="rouge_l")[0].verdict == "inconclusive"
    assert undecided >= 89


def test_scores_are_compared_by_the_bootstrap() -> None:
    """A steady small gain over many items is found."""
    before = [index % 10 / 10 for index in range(60)]
    after = [value + (0.05 if index % 3 else -0.01) for index, value in enumerate(before)]
    [found] = verdict(before, after, metric="rouge_l")
    assert found.verdict == "win"
    assert found.method == "paired bootstrap"
    assert found.low is not None
    assert 0 < found.low < found.difference


def test_several_challengers_are_corrected_together() -> None:
    """What is a win alone need not be one among five."""
    before = [0.0] * 6 + [1.0] * 44
    better = [1.0] * 50
    [alone] = verdict(before, better)
    among = verdict(before, better, before, before, before, before)
    assert alone.verdict == "win"
    assert among[0].p_value == alone.p_value
    assert among[0].p_value_adjusted == pytest.approx(alone.p_value * 5)
    assert among[0].verdict == "inconclusive"


def test_items_of_one_cluster_count_as_one_piece_of_evidence() -> None:
    """Ten better turns of one dialogue prove nothing about dialogues."""
    before, after = [0.0] * 10 + [1.0] * 10, [1.0] * 20
    clusters = ["one"] * 10 + [f"c{index}" for index in range(10)]
    assert verdict(before, after)[0].verdict == "win"
    [clustered] = verdict(before, after, clusters=clusters)
    assert clustered.verdict == "inconclusive"
    assert clustered.method == "paired bootstrap by cluster"


def test_one_item_alone_has_no_interval_of_scores() -> None:
    """Infinite ends become nothing in the record."""
    [found] = verdict([0.2], [0.9], metric="rouge_l")
    assert (found.low, found.high, found.verdict) == (None, None, "inconclusive")
