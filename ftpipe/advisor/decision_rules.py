"""The decision between the roads, as a table of questions in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.advisor.break_even import MIN_CACHED_PROMPT_TOKENS, BreakEven
from ftpipe.advisor.inputs import (
    MAX_BREAK_EVEN_DAYS,
    MIN_DAYS_TO_SHUTDOWN,
    MIN_EXAMPLES,
    RECOMMENDED_EXAMPLES,
    AdviceInputs,
    Recommendation,
)


@dataclass(frozen=True)
class RuleOutcome:
    """What a rule says: the answer it saw, what follows, and the road where it is decisive."""

    answer: str
    effect: str
    recommendation: Recommendation | None = None
    first_step: str = ""


@dataclass(frozen=True)
class Rule:
    """One question of the decision, and what its answer means."""

    key: str
    question: str
    decide: Callable[[AdviceInputs, dict[str, BreakEven]], RuleOutcome]


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def _evaluation(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    said = _yes_no(case.has_evaluation)
    if case.has_evaluation:
        return RuleOutcome(said, "Progress can be measured.")
    step = (
        "Build a test set of 50 to 200 held-out items and measure the baseline: ftpipe evaluate BASE --data test.jsonl"
    )
    return RuleOutcome(said, "Without a baseline nobody can tell whether any road helped.", first_step=step)


def _knowledge(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    said = _yes_no(case.lacks_knowledge)
    if not case.lacks_knowledge:
        return RuleOutcome(said, "Retrieval is not what is missing.")
    if not case.wrong_behavior:
        return RuleOutcome(
            said, "Knowledge belongs into the context; tuning on facts teaches inventing.", Recommendation.RETRIEVAL
        )
    if case.better_prompt_is_enough:
        return RuleOutcome(said, "Fetch the knowledge; the prompt mends the rest.", Recommendation.RETRIEVAL)
    if (case.clean_examples or 0) >= RECOMMENDED_EXAMPLES:
        return RuleOutcome(said, "Fetch the knowledge, tune the behaviour: the gains add up.", Recommendation.MIX)
    step = f"Collect {RECOMMENDED_EXAMPLES} clean examples before tuning the behaviour as well."
    return RuleOutcome(
        said, "Fetch the knowledge first; there are too few examples to tune.", Recommendation.RETRIEVAL, step
    )


def _prompt(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    said = _yes_no(case.better_prompt_is_enough)
    if case.better_prompt_is_enough:
        return RuleOutcome(said, "Stay with the prompt: it can be changed in a minute.", Recommendation.PROMPTING)
    if case.better_prompt_is_enough is None:
        return RuleOutcome(
            said, "Not tried yet.", first_step="Try the best prompt you can write, with three to five examples in it."
        )
    return RuleOutcome(said, "The prompt alone does not do it.")


def _examples(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    count = case.clean_examples
    if count is None:
        return RuleOutcome(
            "not known",
            "Tuning needs them.",
            first_step=f"Count your clean examples: {RECOMMENDED_EXAMPLES} are wanted.",
        )
    if count >= RECOMMENDED_EXAMPLES:
        return RuleOutcome(f"{count:,}", "Enough to see whether tuning helps.")
    step = f"Collect {RECOMMENDED_EXAMPLES - count} more clean examples of the wanted behaviour."
    known = "the server's least" if count >= MIN_EXAMPLES else f"the server wants {MIN_EXAMPLES}"
    return RuleOutcome(
        f"{count:,}", f"Too few to tell ({known}); put the best into the prompt.", Recommendation.PROMPTING, step
    )


def _smaller(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    said = _yes_no(case.smaller_model_is_enough)
    if case.smaller_model_is_enough:
        return RuleOutcome(said, "The strongest case for money: a small tuned model in a large one's place.")
    return RuleOutcome(said, "No saving from a smaller model.")


def _long_prompt(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    length = case.prompt_tokens
    if length is None:
        return RuleOutcome("not known", "The prompt's length decides whether a shorter one saves anything.")
    if length >= MIN_CACHED_PROMPT_TOKENS and case.prompt_caching is not False:
        return RuleOutcome(f"{length:,} tokens, cached", "Caching already gives most of what a shorter prompt would.")
    return RuleOutcome(
        f"{length:,} tokens, not cached", "The second case for money: a tuned model needs a shorter prompt."
    )


def _privacy(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    said = _yes_no(case.needs_privacy)
    if case.needs_privacy:
        return RuleOutcome(said, "The data may not leave; tune and serve at home.", Recommendation.LOCAL)
    return RuleOutcome(said, "Data may go to an endpoint.")


def _shutdown(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    if case.hosted_training_available is False:
        return RuleOutcome(
            "may not create jobs", "A hosted model cannot be trained with this account.", Recommendation.LOCAL
        )
    if case.shutdown_date is None or case.today is None:
        return RuleOutcome("no end announced", "A hosted model may be built upon.")
    left = max(0, (case.shutdown_date - case.today).days)
    if left < MIN_DAYS_TO_SHUTDOWN:
        effect = "Too soon to build upon; weights at home, or another endpoint, stay."
        return RuleOutcome(f"{case.shutdown_date.isoformat()}, {left} days left", effect, Recommendation.LOCAL)
    return RuleOutcome(f"{case.shutdown_date.isoformat()}, {left} days left", "Time enough.")


def _money(_: AdviceInputs, cases: dict[str, BreakEven]) -> RuleOutcome:
    result = cases.get("hosted")
    if result is None:
        return RuleOutcome("not known", "Give prompt and training tokens, and prices, to have it reckoned.")
    if result.calls is None:
        return RuleOutcome("never", "A tuned call costs as much or more; do not tune for cost.")
    reach = f"even after {result.calls:,} calls"
    if result.days is not None and result.days > MAX_BREAK_EVEN_DAYS:
        return RuleOutcome(f"{reach}, {result.days:,.0f} days", "Too slow; do not tune for cost.")
    if result.outcome == "pays":
        return RuleOutcome(f"{reach}, {result.days:,.0f} days", "It pays for itself in time.", Recommendation.HOSTED)
    if result.outcome == "too late":
        return RuleOutcome(reach, "The model ends before it is even; do not tune for cost.")
    return RuleOutcome(reach, "Whether that is soon hangs on the calls a day.")


def _speed_or_behavior(case: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    if case.needs_speed:
        return RuleOutcome("speed", "A small tuned model at home answers at once.", Recommendation.LOCAL)
    is_inferred = (
        case.wrong_behavior is None and case.better_prompt_is_enough is False and case.lacks_knowledge is False
    )
    if case.wrong_behavior or is_inferred:
        return RuleOutcome(
            "behaviour",
            "The prompt does not mend it and there are examples: tune at home, at no fee.",
            Recommendation.LOCAL,
        )
    return RuleOutcome("no", "Nothing asks for tuning; a better prompt costs least.", Recommendation.PROMPTING)


RULES: tuple[Rule, ...] = (
    Rule("evaluation", "Is there an evaluation with a baseline?", _evaluation),
    Rule("knowledge", "Is the failure missing knowledge?", _knowledge),
    Rule("prompt", "Does a better prompt or few-shot fix it?", _prompt),
    Rule("examples", f"Are there {RECOMMENDED_EXAMPLES} clean examples of the wanted behaviour?", _examples),
    Rule("privacy", "Must the data stay at home?", _privacy),
    Rule("smaller", "Would a smaller tuned model do?", _smaller),
    Rule("long-prompt", "Is the prompt long, and caching unusable?", _long_prompt),
    Rule("retires", "When does the base retire?", _shutdown),
    Rule("money", "Do the calls that are left pay for it?", _money),
    Rule("anyway", "Do speed or behaviour ask for it anyway?", _speed_or_behavior),
)
"""The decision, in order; the first ruling with a road ends it."""


def is_decided(inputs: AdviceInputs, *, last_field: str, rules: tuple[Rule, ...]) -> bool:
    """Whether the questions up to a field already decide, so that a conversation need not go on.

    Args:
        inputs: What is known so far.
        last_field: Field that was asked last.
        rules: The decision.
    """
    order = ("has_evaluation", "wrong_behavior", "better_prompt_is_enough", "clean_examples")
    if last_field not in order:
        return inputs.needs_privacy is True
    return any(rule.decide(inputs, {}).recommendation is not None for rule in rules[: order.index(last_field) + 1])
