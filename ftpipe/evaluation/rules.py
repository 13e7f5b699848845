"""The decision between the roads, as a table of questions in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.evaluation.breakeven import CACHE_FROM, BreakEven
from ftpipe.evaluation.situation import ENOUGH_EXAMPLES, LEAST_EXAMPLES, PATIENCE_DAYS, SOON_DAYS, Road, Situation


@dataclass(frozen=True)
class Ruling:
    """What a rule says: the answer it saw, what follows, and the road where it is decisive."""

    answer: str
    effect: str
    road: Road | None = None
    first: str = ""


@dataclass(frozen=True)
class Rule:
    """One question of the decision, and what its answer means."""

    key: str
    question: str
    decide: Callable[[Situation, dict[str, BreakEven]], Ruling]


def _said(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def _evaluation(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    said = _said(case.has_evaluation)
    if case.has_evaluation:
        return Ruling(said, "Progress can be measured.")
    step = (
        "Build a test set of 50 to 200 held-out items and measure the baseline: ftpipe evaluate BASE --data test.jsonl"
    )
    return Ruling(said, "Without a baseline nobody can tell whether any road helped.", first=step)


def _knowledge(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    said = _said(case.lacks_knowledge)
    if not case.lacks_knowledge:
        return Ruling(said, "Retrieval is not what is missing.")
    if not case.wrong_behaviour:
        return Ruling(said, "Knowledge belongs into the context; tuning on facts teaches inventing.", Road.RETRIEVAL)
    if case.prompt_is_enough:
        return Ruling(said, "Fetch the knowledge; the prompt mends the rest.", Road.RETRIEVAL)
    if (case.clean_examples or 0) >= ENOUGH_EXAMPLES:
        return Ruling(said, "Fetch the knowledge, tune the behaviour: the gains add up.", Road.MIX)
    step = f"Collect {ENOUGH_EXAMPLES} clean examples before tuning the behaviour as well."
    return Ruling(said, "Fetch the knowledge first; there are too few examples to tune.", Road.RETRIEVAL, step)


def _prompt(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    said = _said(case.prompt_is_enough)
    if case.prompt_is_enough:
        return Ruling(said, "Stay with the prompt: it can be changed in a minute.", Road.PROMPTING)
    if case.prompt_is_enough is None:
        return Ruling(
            said, "Not tried yet.", first="Try the best prompt you can write, with three to five examples in it."
        )
    return Ruling(said, "The prompt alone does not do it.")


def _examples(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    count = case.clean_examples
    if count is None:
        return Ruling(
            "not known", "Tuning needs them.", first=f"Count your clean examples: {ENOUGH_EXAMPLES} are wanted."
        )
    if count >= ENOUGH_EXAMPLES:
        return Ruling(f"{count:,}", "Enough to see whether tuning helps.")
    step = f"Collect {ENOUGH_EXAMPLES - count} more clean examples of the wanted behaviour."
    known = "the server's least" if count >= LEAST_EXAMPLES else f"the server wants {LEAST_EXAMPLES}"
    return Ruling(f"{count:,}", f"Too few to tell ({known}); put the best into the prompt.", Road.PROMPTING, step)


def _smaller(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    said = _said(case.smaller_model_would_do)
    if case.smaller_model_would_do:
        return Ruling(said, "The strongest case for money: a small tuned model in a large one's place.")
    return Ruling(said, "No saving from a smaller model.")


def _long_prompt(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    length = case.prompt_tokens
    if length is None:
        return Ruling("not known", "The prompt's length decides whether a shorter one saves anything.")
    if length >= CACHE_FROM and case.caching is not False:
        return Ruling(f"{length:,} tokens, cached", "Caching already gives most of what a shorter prompt would.")
    return Ruling(f"{length:,} tokens, not cached", "The second case for money: a tuned model needs a shorter prompt.")


def _privacy(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    said = _said(case.needs_privacy)
    if case.needs_privacy:
        return Ruling(said, "The data may not leave; tune and serve at home.", Road.LOCAL)
    return Ruling(said, "Data may go to an endpoint.")


def _retires(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    if case.hosted_is_open is False:
        return Ruling("may not create jobs", "A hosted model cannot be trained with this account.", Road.LOCAL)
    if case.ends is None or case.today is None:
        return Ruling("no end announced", "A hosted model may be built upon.")
    left = max(0, (case.ends - case.today).days)
    if left < SOON_DAYS:
        effect = "Too soon to build upon; weights at home, or another endpoint, stay."
        return Ruling(f"{case.ends.isoformat()}, {left} days left", effect, Road.LOCAL)
    return Ruling(f"{case.ends.isoformat()}, {left} days left", "Time enough.")


def _money(_: Situation, cases: dict[str, BreakEven]) -> Ruling:
    result = cases.get("hosted")
    if result is None:
        return Ruling("not known", "Give prompt and training tokens, and prices, to have it reckoned.")
    if result.calls is None:
        return Ruling("never", "A tuned call costs as much or more; do not tune for cost.")
    reach = f"even after {result.calls:,} calls"
    if result.days is not None and result.days > PATIENCE_DAYS:
        return Ruling(f"{reach}, {result.days:,.0f} days", "Too slow; do not tune for cost.")
    if result.outcome == "pays":
        return Ruling(f"{reach}, {result.days:,.0f} days", "It pays for itself in time.", Road.HOSTED)
    if result.outcome == "too late":
        return Ruling(reach, "The model ends before it is even; do not tune for cost.")
    return Ruling(reach, "Whether that is soon hangs on the calls a day.")


def _anyway(case: Situation, _: dict[str, BreakEven]) -> Ruling:
    if case.needs_speed:
        return Ruling("speed", "A small tuned model at home answers at once.", Road.LOCAL)
    is_inferred = case.wrong_behaviour is None and case.prompt_is_enough is False and case.lacks_knowledge is False
    if case.wrong_behaviour or is_inferred:
        return Ruling(
            "behaviour", "The prompt does not mend it and there are examples: tune at home, at no fee.", Road.LOCAL
        )
    return Ruling("no", "Nothing asks for tuning; a better prompt costs least.", Road.PROMPTING)


RULES: tuple[Rule, ...] = (
    Rule("evaluation", "Is there an evaluation with a baseline?", _evaluation),
    Rule("knowledge", "Is the failure missing knowledge?", _knowledge),
    Rule("prompt", "Does a better prompt or few-shot fix it?", _prompt),
    Rule("examples", f"Are there {ENOUGH_EXAMPLES} clean examples of the wanted behaviour?", _examples),
    Rule("privacy", "Must the data stay at home?", _privacy),
    Rule("smaller", "Would a smaller tuned model do?", _smaller),
    Rule("long-prompt", "Is the prompt long, and caching unusable?", _long_prompt),
    Rule("retires", "When does the base retire?", _retires),
    Rule("money", "Do the calls that are left pay for it?", _money),
    Rule("anyway", "Do speed or behaviour ask for it anyway?", _anyway),
)
"""The decision, in order; the first ruling with a road ends it."""


def settled(case: Situation, *, upto: str, rules: tuple[Rule, ...]) -> bool:
    """Whether the questions up to a field already decide, so that a conversation need not go on.

    Args:
        case: What is known so far.
        upto: Field that was asked last.
        rules: The decision.
    """
    order = ("has_evaluation", "wrong_behaviour", "prompt_is_enough", "clean_examples")
    if upto not in order:
        return case.needs_privacy is True
    return any(rule.decide(case, {}).road is not None for rule in rules[: order.index(upto) + 1])
