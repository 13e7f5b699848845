"""The advice follows its order of questions, and what it says would change it really does."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.advisor.advise import advise
from ftpipe.advisor.decision_rules import RULES
from ftpipe.advisor.inputs import AdviceInputs, Recommendation
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
    """The case in which everything speaks for tuning, but for the changes."""
    return READY.model_copy(update=changes)


def test_the_questions_come_in_the_order_of_the_framework() -> None:
    """Evaluation first, money late."""
    assert [rule.key for rule in RULES] == [
        "evaluation", "knowledge", "prompt", "examples", "privacy",
        "smaller", "long-prompt", "retires", "money", "anyway",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "road", "decided_by"),
    [
        (ready(lacks_knowledge=True, wrong_behavior=False), Recommendation.RETRIEVAL, "knowledge"),
        (ready(lacks_knowledge=True), Recommendation.MIX, "knowledge"),
        (ready(lacks_knowledge=True, clean_examples=20), Recommendation.RETRIEVAL, "knowledge"),
        (ready(better_prompt_is_enough=True), Recommendation.PROMPTING, "prompt"),
        (ready(clean_examples=20), Recommendation.PROMPTING, "examples"),
        (ready(needs_privacy=True), Recommendation.LOCAL, "privacy"),
        (ready(hosted_training_available=False), Recommendation.LOCAL, "retires"),
        (ready(shutdown_date=date(2027, 1, 14)), Recommendation.LOCAL, "retires"),
        (ready(calls_per_day=5000.0), Recommendation.HOSTED, "money"),
        (ready(needs_speed=True, wrong_behavior=False), Recommendation.LOCAL, "anyway"),
        (ready(wrong_behavior=False), Recommendation.PROMPTING, "anyway"),
    ],
)
def test_each_decisive_answer_names_its_road(case: AdviceInputs, road: Recommendation, decided_by: str) -> None:
    """And nothing after it is asked."""
    advice = advise(case)
    assert (advice.recommendation, advice.steps[-1].key) == (road, decided_by)
    assert [step.is_decisive for step in advice.steps] == [False] * (len(advice.steps) - 1) + [True]


def test_without_an_evaluation_that_comes_first() -> None:
    """The road is named, and what has to be done before it."""
    advice = advise(ready(has_evaluation=False))
    assert "test set" in advice.first_steps[0]


def test_an_empty_case_is_answered_with_what_is_missing() -> None:
    """Nothing known: stay with the prompt, and here is what to find out."""
    advice = advise(AdviceInputs())
    assert advice.recommendation is Recommendation.PROMPTING
    assert len(advice.first_steps) == 3
    assert advice.would_change
    assert advice.break_even == ()


def test_what_would_change_the_answer_really_does() -> None:
    """More traffic on a hosted model without an end leads to the hosted road."""
    advice = advise(ready(calls_per_day=2.0))
    assert advice.recommendation is Recommendation.LOCAL
    assert any("22 calls a day or more" in line and "hosted" in line for line in advice.would_change)
    assert advise(ready(calls_per_day=22.0)).steps[-1].key == "money"


def test_the_worked_case_has_its_price_row() -> None:
    """1,000 examples of 500 tokens on gpt-4o-mini: 1.50 USD an epoch, with day and source."""
    advice = advise(ready(training_tokens=500_000, tuned=TUNED_4O_MINI))
    assert advice.epoch_cost is not None
    assert advice.epoch_cost.amount == 1.5
    assert TUNED_4O_MINI in advice.prices
    assert all(row.source for row in advice.prices)


def test_the_numbers_come_with_and_without_caching_and_over_the_epochs() -> None:
    """One answer is not enough where it turns on an assumption."""
    advice = advise(ready(base=MINI, epochs_low=1, epochs_high=5))
    results = {case.name: case.result for case in advice.break_even}
    assert results["hosted"].calls is None
    assert results["hosted, prompt not cached"].calls == 37_500
    assert results["hosted, most epochs (5)"].one_time.amount == 25
    assert results["local"].tuned.amount == 0
    assert any("never" in lesson for lesson in advice.observations)


def test_people_and_a_near_end_are_said_aloud() -> None:
    """The lessons are those that the numbers show."""
    advice = advise(ready(labor_hours=20, hourly_rate=100, shutdown_date=date(2027, 1, 14)))
    assert any(lesson.startswith("People are 99%") for lesson in advice.observations)
    assert any("51 more days" in lesson for lesson in advice.observations)


maybe = st.sampled_from([None, True, False])


@given(maybe, maybe, maybe, maybe, maybe, st.sampled_from([None, 5, 20, 49, 50, 5000]))
def test_every_case_gets_a_road_and_a_reason(
    evaluation: bool | None,
    lacks: bool | None,
    wrong: bool | None,
    prompt: bool | None,
    private: bool | None,
    count: int,
) -> None:
    """Whatever is known or not; the last step is the only decisive one, and no change leads to the same road."""
    case = AdviceInputs(
        has_evaluation=evaluation,
        lacks_knowledge=lacks,
        wrong_behavior=wrong,
        better_prompt_is_enough=prompt,
        needs_privacy=private,
        clean_examples=count,
    )
    advice = advise(case)
    assert advice.steps[-1].is_decisive
    assert advice.reason
    assert not any(line.endswith(f": {advice.recommendation.value}.") for line in advice.would_change)
