"""The advisor asks its questions in order, and what it says would change the answer really does."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.advisor.advise import advise
from ftpipe.advisor.decision_rules import RULES
from ftpipe.advisor.inputs import AdviceInputs
from ftpipe.records.advice import Recommendation
from tests.evaluation.factories import LARGE, MINI, TUNED_4O_MINI, TUNED_MINI

READY = AdviceInputs(
    has_evaluation=True,
    lacks_knowledge=False,
    wrong_behavior=True,
    better_prompt_is_enough=False,
    clean_examples=600,
    needs_privacy=False,
    needs_speed=False,
    smaller_model_is_enough=True,
    prompt_caching=True,
    prompt_tokens=2000,
    training_tokens=1_000_000,
    base=LARGE,
    tuned=TUNED_MINI,
    today=date(2026, 11, 24),
)


def ready(**changes: object) -> AdviceInputs:
    """A case in which everything speaks for tuning, except for the changes."""
    return READY.model_copy(update=changes)


def test_decision_rules_keep_their_order() -> None:
    """Evaluation first, money late."""
    assert [rule.key for rule in RULES] == [
        "evaluation", "knowledge", "prompt", "examples", "privacy",
        "smaller-model", "long-prompt", "shutdown", "break-even", "speed-or-behavior",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "recommendation", "decided_by"),
    [
        (ready(lacks_knowledge=True, wrong_behavior=False), Recommendation.RETRIEVAL, "knowledge"),
        (ready(lacks_knowledge=True), Recommendation.MIX, "knowledge"),
        (ready(lacks_knowledge=True, clean_examples=20), Recommendation.RETRIEVAL, "knowledge"),
        (ready(better_prompt_is_enough=True), Recommendation.PROMPTING, "prompt"),
        (ready(clean_examples=20), Recommendation.PROMPTING, "examples"),
        (ready(needs_privacy=True), Recommendation.LOCAL, "privacy"),
        (ready(hosted_training_available=False), Recommendation.LOCAL, "shutdown"),
        (ready(shutdown_date=date(2027, 1, 14)), Recommendation.LOCAL, "shutdown"),
        (ready(calls_per_day=5000.0), Recommendation.HOSTED, "break-even"),
        (ready(needs_speed=True, wrong_behavior=False), Recommendation.LOCAL, "speed-or-behavior"),
        (ready(wrong_behavior=False), Recommendation.PROMPTING, "speed-or-behavior"),
    ],
)
def test_advise_stops_at_the_decisive_answer(
    inputs: AdviceInputs, recommendation: Recommendation, decided_by: str
) -> None:
    advice = advise(inputs)
    assert (advice.recommendation, advice.steps[-1].key) == (recommendation, decided_by)
    assert [step.is_decisive for step in advice.steps] == [False] * (len(advice.steps) - 1) + [True]


def test_advise_without_evaluation_starts_with_a_test_set() -> None:
    advice = advise(ready(has_evaluation=False))
    assert "test set" in advice.first_steps[0]


def test_advise_without_inputs_lists_what_is_missing() -> None:
    """Nothing is recommended; what must be known is why the model fails, and whether there are examples."""
    advice = advise(AdviceInputs())
    assert advice.recommendation is None
    assert [one.field for one in advice.missing] == [
        "lacks_knowledge", "wrong_behavior", "better_prompt_is_enough", "clean_examples",
    ]  # fmt: skip
    assert len(advice.first_steps) == 3
    assert not any(step.is_decisive for step in advice.steps)
    assert any(line.startswith("If a better prompt fixes it: prompting") for line in advice.would_change)
    assert advice.break_even == ()


@pytest.mark.parametrize(
    ("known", "recommendation", "missing"),
    [
        ({"clean_examples": 20}, None, 3),
        ({"clean_examples": 800}, None, 3),
        ({"needs_privacy": True}, None, 4),
        ({"needs_privacy": True, "clean_examples": 800}, None, 3),
        ({"wrong_behavior": True}, None, 1),
        ({"needs_speed": True}, None, 1),
        ({"needs_speed": True, "clean_examples": 800}, Recommendation.LOCAL, 0),
        ({"wrong_behavior": True, "clean_examples": 800}, Recommendation.LOCAL, 0),
        ({"better_prompt_is_enough": True}, Recommendation.PROMPTING, 0),
        ({"lacks_knowledge": True}, Recommendation.RETRIEVAL, 0),
        ({"wrong_behavior": True, "clean_examples": 20}, Recommendation.PROMPTING, 0),
    ],
)
def test_advise_recommends_nothing_on_assumptions(
    known: dict[str, object], recommendation: Recommendation | None, missing: int
) -> None:
    """Neither that the model lacks no knowledge, nor that there are examples."""
    advice = advise(AdviceInputs.model_validate(known))
    assert (advice.recommendation, len(advice.missing)) == (recommendation, missing)


def test_advise_break_even_is_a_reason_by_itself() -> None:
    advice = advise(
        READY.model_copy(
            update={"lacks_knowledge": None, "wrong_behavior": None, "better_prompt_is_enough": None}
        ).model_copy(update={"calls_per_day": 5000.0})
    )
    assert (advice.recommendation, advice.missing) == (Recommendation.HOSTED, ())


def test_advise_would_change_is_true() -> None:
    """More traffic on a hosted model without a shutdown date leads to hosted fine-tuning."""
    advice = advise(ready(calls_per_day=2.0))
    assert advice.recommendation is Recommendation.LOCAL
    assert any("22 or more calls per day" in line and "hosted" in line for line in advice.would_change)
    assert advise(ready(calls_per_day=22.0)).steps[-1].key == "break-even"


def test_advise_names_the_price_row_of_each_figure() -> None:
    """1,000 examples of 500 tokens on gpt-4o-mini: 1.50 USD an epoch, with date and source."""
    advice = advise(ready(training_tokens=500_000, tuned=TUNED_4O_MINI))
    assert advice.epoch_cost is not None
    assert advice.epoch_cost.amount == 1.5
    assert TUNED_4O_MINI in advice.prices
    assert all(row.source for row in advice.prices)
    assert len(advice.prices) == len(set(advice.prices))


def test_advise_computes_break_even_for_each_assumption() -> None:
    """With and without caching, and over the range of epochs."""
    advice = advise(ready(base=MINI, epochs_low=1, epochs_high=5))
    results = {case.name: case.result for case in advice.break_even}
    assert results["hosted"].calls is None
    assert results["hosted, prompt not cached"].calls == 37_500
    assert results["hosted, most epochs (5)"].one_time.amount == 25
    assert results["local"].tuned.amount == 0
    assert any("never" in observation for observation in advice.observations)


def test_advise_warns_about_labor_cost_and_short_horizon() -> None:
    advice = advise(ready(labor_hours=20, hourly_rate=100, shutdown_date=date(2027, 1, 14)))
    assert any(observation.startswith("Labor is 99%") for observation in advice.observations)
    assert any("in 51 days" in observation for observation in advice.observations)


maybe = st.sampled_from([None, True, False])


@given(maybe, maybe, maybe, maybe, maybe, st.sampled_from([None, 5, 20, 49, 50, 5000]))
def test_advise_always_gives_a_recommendation_or_what_is_missing(
    evaluation: bool | None,
    lacks: bool | None,
    wrong: bool | None,
    prompt: bool | None,
    private: bool | None,
    count: int,
) -> None:
    """Whatever is known; only the last step is decisive, and no change leads to the same recommendation."""
    inputs = AdviceInputs(
        has_evaluation=evaluation,
        lacks_knowledge=lacks,
        wrong_behavior=wrong,
        better_prompt_is_enough=prompt,
        needs_privacy=private,
        clean_examples=count,
    )
    advice = advise(inputs)
    assert advice.steps[-1].is_decisive is (advice.recommendation is not None) is not bool(advice.missing)
    assert advice.reason
    if advice.recommendation is not None:
        assert not any(line.endswith(f": {advice.recommendation.value}.") for line in advice.would_change)
