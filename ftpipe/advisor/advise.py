"""Which road to take: retrieval, a better prompt, tuning hosted or at home, or a mix, with the numbers behind it.

What a model must *know* belongs into its context; how it must *act* can be tuned. The rules are in ``rules``; the
first decisive answer names the road. What would change the answer is not guessed: the rules are run again with one
answer turned at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.advisor.break_even import CACHE_FROM, BreakEven, CostFigure, Training, TypicalCall, break_even, epoch_cost
from ftpipe.advisor.decision_rules import RULES
from ftpipe.advisor.inputs import (
    ENOUGH_EXAMPLES,
    LEAST_EXAMPLES,
    PATIENCE_DAYS,
    SOON_DAYS,
    AdviceInputs,
    Recommendation,
)
from ftpipe.records import Record
from ftpipe.records.evaluation import TokenPrice


class BreakEvenCase(Record):
    """One way to reckon the break-even."""

    name: str
    result: BreakEven


class Step(Record):
    """One question, its answer, and what follows."""

    key: str
    question: str
    answer: str
    effect: str
    decisive: bool


class Advice(Record):
    """The road, why, what would change it, and the numbers."""

    road: Recommendation
    first: tuple[str, ...]
    """What has to be done before the road is taken."""
    why: str
    steps: tuple[Step, ...]
    """The questions in order, to the decisive one."""
    would_change: tuple[str, ...]
    """Answers that would lead elsewhere, each found by turning it and asking again."""
    epoch: CostFigure | None
    """One epoch of training; ``None`` without tokens or a training price."""
    cases: tuple[BreakEvenCase, ...]
    """Break-even with and without prompt caching, over the epochs' range, and at home."""
    lessons: tuple[str, ...]
    """What the numbers teach."""
    rows: tuple[TokenPrice, ...]
    """Every price row used, with day and source."""


def advise(case: AdviceInputs) -> Advice:
    """Take the questions in order and say which road, why, and what would change it.

    Raises:
        UsageError: Prices are in different currencies, or a training price is missing.
    """
    cases = break_even_cases(case)
    road, steps, first = _decide(case, cases)
    results = [one.result for one in cases]
    used = [row for result in results for money in (result.base, result.tuned, result.once) for row in money.rows]
    epoch = None
    if case.training_tokens is not None and case.tuned is not None and case.tuned.training is not None:
        epoch = epoch_cost(case.training_tokens, case.tuned)
        used += epoch.rows
    return Advice(
        road=road,
        first=first,
        why=f"{steps[-1].question} {steps[-1].answer}. {steps[-1].effect}",
        steps=steps,
        would_change=tuple(_would_change(case, road)),
        epoch=epoch,
        cases=cases,
        lessons=tuple(_observations(case, cases)),
        rows=tuple(_unique(used)),
    )


def break_even_cases(case: AdviceInputs) -> tuple[BreakEvenCase, ...]:
    """The break-even each way: as said, with and without caching, over the epochs' range, and at home."""
    if case.prompt_tokens is None or case.training_tokens is None or case.base is None:
        return ()
    cached = case.caching is not False
    cases: list[BreakEvenCase] = []
    if case.tuned is not None:
        cases.append(_case("hosted", case, case.tuned, cached, case.epochs))
        other = "hosted, prompt not cached" if cached else "hosted, prompt cached"
        cases.append(_case(other, case, case.tuned, not cached, case.epochs))
        for word, epochs in (("fewest", case.epochs_low), ("most", case.epochs_high)):
            if epochs is not None and epochs != case.epochs:
                cases.append(_case(f"hosted, {word} epochs ({epochs})", case, case.tuned, cached, epochs))
    cases.append(_case("local", case, _own_machine(case.base.currency), cached, case.epochs))
    return tuple(cases)


def _case(name: str, case: AdviceInputs, tuned: TokenPrice, caching: bool, epochs: int) -> BreakEvenCase:
    at_home = name == "local"
    result = break_even(
        TypicalCall(
            prompt=case.prompt_tokens or 0,
            tuned_prompt=case.tuned_prompt_tokens,
            user=case.user_tokens,
            output=case.output_tokens,
        ),
        Training(
            tokens=case.training_tokens or 0,
            epochs=epochs,
            data=case.data_cost,
            evaluation=case.evaluation_cost,
            people=case.people_hours * case.people_rate,
        ),
        base=case.base or tuned,
        tuned=tuned,
        caching=caching,
        traffic=case.calls_per_day,
        today=case.today,
        ends=None if at_home else case.ends,
        machine_per_day=case.machine_per_day if at_home else 0.0,
    )
    return BreakEvenCase(name=name, result=result)


def _own_machine(currency: str) -> TokenPrice:
    return TokenPrice(
        model="LoRA on your own machine", input=0, output=0, training=0, currency=currency, source="your own machine"
    )


def _decide(
    case: AdviceInputs, cases: tuple[BreakEvenCase, ...]
) -> tuple[Recommendation, tuple[Step, ...], tuple[str, ...]]:
    """Run the rules to the first decisive one; the last always is."""
    results = {one.name: one.result for one in cases}
    steps: list[Step] = []
    first: list[str] = []
    road = Recommendation.PROMPTING
    for rule in RULES:
        ruling = rule.decide(case, results)
        decisive = ruling.road is not None
        steps.append(
            Step(key=rule.key, question=rule.question, answer=ruling.answer, effect=ruling.effect, decisive=decisive)
        )
        first += [ruling.first] if ruling.first else []
        if ruling.road is not None:
            road = ruling.road
            break
    return road, tuple(steps), tuple(first)


def _would_change(case: AdviceInputs, road: Recommendation) -> Iterator[str]:
    """Turn one answer at a time and say where that would lead."""
    for sentence, changed in _single_answer_changes(case):
        other, _, _ = _decide(changed, break_even_cases(changed))
        if other is not road:
            yield f"If {sentence}: {other.value}."


_TURNS: tuple[tuple[str, str, str], ...] = (
    ("lacks_knowledge", "it fails for missing knowledge", "it does not lack knowledge"),
    ("wrong_behaviour", "it fails in how it answers", "how it answers is right already"),
    ("prompt_is_enough", "a better prompt fixes it", "no prompt fixes it"),
    ("needs_privacy", "the data must stay at home", "the data may leave"),
    ("needs_speed", "answers must come faster", "speed does not matter"),
    ("caching", "the prompt is cached", "the prompt is not cached"),
    ("hosted_is_open", "the account may create jobs", "the account may not create jobs"),
)


def _single_answer_changes(case: AdviceInputs) -> Iterator[tuple[str, AdviceInputs]]:
    """Every answer that could be other than it is, or than it is taken to be while unknown."""
    for field, if_yes, if_no in _TURNS:
        now = getattr(case, field)
        for value, sentence in ((True, if_yes), (False, if_no)):
            if now is not value:
                yield sentence, case.model_copy(update={field: value})
    count = case.clean_examples
    if count is None or count < ENOUGH_EXAMPLES:
        yield f"there were {ENOUGH_EXAMPLES} clean examples", _with(case, clean_examples=ENOUGH_EXAMPLES)
    if count is None or count >= ENOUGH_EXAMPLES:
        yield f"there were fewer than {ENOUGH_EXAMPLES} clean examples", _with(case, clean_examples=LEAST_EXAMPLES)
    if case.ends is not None:
        yield "the hosted model had no end date", _with(case, ends=None)
    yield from _other_traffic(case)


def _other_traffic(case: AdviceInputs) -> Iterator[tuple[str, AdviceInputs]]:
    """Traffic on the other side of the break-even."""
    hosted = next((one.result for one in break_even_cases(case) if one.name == "hosted"), None)
    if hosted is None or hosted.calls is None:
        return
    needed = hosted.calls_per_day or max(1, -(-hosted.calls // PATIENCE_DAYS))
    within = f"{hosted.horizon_days} days" if hosted.horizon_days else "a year"
    if (case.calls_per_day or 0) < needed:
        yield f"there were {needed:,} calls a day or more (even within {within})", _with(case, calls_per_day=needed)


def _with(case: AdviceInputs, **changes: object) -> AdviceInputs:
    return case.model_copy(update=changes)


def _observations(case: AdviceInputs, cases: tuple[BreakEvenCase, ...]) -> Iterator[str]:
    """What these very numbers teach; nothing is said that they do not show."""
    results = {one.name: one.result for one in cases}
    hosted = results.get("hosted")
    if hosted is None:
        return
    cached, plain = results.get("hosted, prompt cached", hosted), results.get("hosted, prompt not cached", hosted)
    if plain.calls is not None and cached.calls is None:
        yield "A shorter prompt pays only without caching: with the prompt cached the tuned call costs more, so never."
    if hosted.tuned_cached_tokens < case.tuned_prompt_tokens and hosted.base_cached_tokens:
        yield f"The short prompt is under {CACHE_FROM:,} tokens, so it is not cached and costs the full input price."
    if not case.machine_per_day:
        yield "For the local road nothing is counted for the machine; --machine-per-day does."
    people = case.people_hours * case.people_rate
    if people > hosted.once.amount / 2:
        share = people / hosted.once.amount
        yield f"People are {share:.0%} of what is paid once: their time decides, not the training."
    if hosted.horizon_days is not None and hosted.horizon_days < SOON_DAYS:
        yield f"The hosted model answers for {hosted.horizon_days} more days only; whatever is saved ends with it."


def _unique(rows: list[TokenPrice]) -> list[TokenPrice]:
    """The rows once each, in order; records with fields of their own kind are compared, not hashed."""
    seen: list[TokenPrice] = []
    for row in rows:
        if row not in seen:
            seen.append(row)
    return seen
