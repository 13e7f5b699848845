"""Which road to take: retrieval, a better prompt, tuning hosted or at home, or a mix, with the numbers behind it.

What a model must *know* belongs into its context; how it must *act* can be tuned. The rules are in ``rules``; the
first decisive answer names the road. What would change the answer is not guessed: the rules are run again with one
answer turned at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.advisor.break_even import (
    MIN_CACHED_PROMPT_TOKENS,
    BreakEven,
    CostFigure,
    Training,
    TypicalCall,
    break_even,
    epoch_cost,
)
from ftpipe.advisor.decision_rules import RULES
from ftpipe.advisor.inputs import (
    MAX_BREAK_EVEN_DAYS,
    MIN_DAYS_TO_SHUTDOWN,
    MIN_EXAMPLES,
    RECOMMENDED_EXAMPLES,
    AdviceInputs,
    Recommendation,
)
from ftpipe.records import Record
from ftpipe.records.evaluation import TokenPrice


class BreakEvenCase(Record):
    """One way to reckon the break-even."""

    name: str
    result: BreakEven


class AdviceStep(Record):
    """One question, its answer, and what follows."""

    key: str
    question: str
    answer: str
    effect: str
    is_decisive: bool


class Advice(Record):
    """The road, why, what would change it, and the numbers."""

    recommendation: Recommendation
    first_steps: tuple[str, ...]
    """What has to be done before the road is taken."""
    reason: str
    steps: tuple[AdviceStep, ...]
    """The questions in order, to the decisive one."""
    would_change: tuple[str, ...]
    """Answers that would lead elsewhere, each found by turning it and asking again."""
    epoch_cost: CostFigure | None
    """One epoch of training; ``None`` without tokens or a training price."""
    break_even: tuple[BreakEvenCase, ...]
    """Break-even with and without prompt caching, over the epochs' range, and at home."""
    observations: tuple[str, ...]
    """What the numbers teach."""
    prices: tuple[TokenPrice, ...]
    """Every price row used, with day and source."""


def advise(inputs: AdviceInputs) -> Advice:
    """Take the questions in order and say which road, why, and what would change it.

    Raises:
        UsageError: Prices are in different currencies, or a training price is missing.
    """
    cases = break_even_cases(inputs)
    road, steps, first = _decide(inputs, cases)
    results = [one.result for one in cases]
    used = [row for result in results for money in (result.base, result.tuned, result.one_time) for row in money.rows]
    epoch = None
    if inputs.training_tokens is not None and inputs.tuned is not None and inputs.tuned.training is not None:
        epoch = epoch_cost(inputs.training_tokens, inputs.tuned)
        used += epoch.rows
    return Advice(
        recommendation=road,
        first_steps=first,
        reason=f"{steps[-1].question} {steps[-1].answer}. {steps[-1].effect}",
        steps=steps,
        would_change=tuple(_would_change(inputs, road)),
        epoch_cost=epoch,
        break_even=cases,
        observations=tuple(_observations(inputs, cases)),
        prices=tuple(_unique(used)),
    )


def break_even_cases(inputs: AdviceInputs) -> tuple[BreakEvenCase, ...]:
    """The break-even each way: as said, with and without caching, over the epochs' range, and at home."""
    if inputs.prompt_tokens is None or inputs.training_tokens is None or inputs.base is None:
        return ()
    cached = inputs.prompt_caching is not False
    cases: list[BreakEvenCase] = []
    if inputs.tuned is not None:
        cases.append(_break_even_case("hosted", inputs, inputs.tuned, cached, inputs.epochs))
        other = "hosted, prompt not cached" if cached else "hosted, prompt cached"
        cases.append(_break_even_case(other, inputs, inputs.tuned, not cached, inputs.epochs))
        for word, epochs in (("fewest", inputs.epochs_low), ("most", inputs.epochs_high)):
            if epochs is not None and epochs != inputs.epochs:
                cases.append(
                    _break_even_case(f"hosted, {word} epochs ({epochs})", inputs, inputs.tuned, cached, epochs)
                )
    cases.append(_break_even_case("local", inputs, _own_hardware_price(inputs.base.currency), cached, inputs.epochs))
    return tuple(cases)


def _break_even_case(name: str, inputs: AdviceInputs, tuned: TokenPrice, caching: bool, epochs: int) -> BreakEvenCase:
    at_home = name == "local"
    result = break_even(
        TypicalCall(
            fixed_prompt=inputs.prompt_tokens or 0,
            tuned_fixed_prompt=inputs.tuned_prompt_tokens,
            variable=inputs.variable_tokens,
            output=inputs.output_tokens,
        ),
        Training(
            tokens=inputs.training_tokens or 0,
            epochs=epochs,
            data=inputs.data_cost,
            evaluation=inputs.evaluation_cost,
            labor=inputs.labor_hours * inputs.hourly_rate,
        ),
        base=inputs.base or tuned,
        tuned=tuned,
        caching=caching,
        calls_per_day=inputs.calls_per_day,
        today=inputs.today,
        shutdown_date=None if at_home else inputs.shutdown_date,
        hosting_per_day=inputs.hosting_per_day if at_home else 0.0,
    )
    return BreakEvenCase(name=name, result=result)


def _own_hardware_price(currency: str) -> TokenPrice:
    return TokenPrice(
        model="LoRA on your own machine", input=0, output=0, training=0, currency=currency, source="your own machine"
    )


def _decide(
    inputs: AdviceInputs, cases: tuple[BreakEvenCase, ...]
) -> tuple[Recommendation, tuple[AdviceStep, ...], tuple[str, ...]]:
    """Run the rules to the first decisive one; the last always is."""
    results = {one.name: one.result for one in cases}
    steps: list[AdviceStep] = []
    first: list[str] = []
    road = Recommendation.PROMPTING
    for rule in RULES:
        ruling = rule.decide(inputs, results)
        decisive = ruling.recommendation is not None
        steps.append(
            AdviceStep(
                key=rule.key, question=rule.question, answer=ruling.answer, effect=ruling.effect, is_decisive=decisive
            )
        )
        first += [ruling.first_step] if ruling.first_step else []
        if ruling.recommendation is not None:
            road = ruling.recommendation
            break
    return road, tuple(steps), tuple(first)


def _would_change(inputs: AdviceInputs, road: Recommendation) -> Iterator[str]:
    """Turn one answer at a time and say where that would lead."""
    for sentence, changed in _single_answer_changes(inputs):
        other, _, _ = _decide(changed, break_even_cases(changed))
        if other is not road:
            yield f"If {sentence}: {other.value}."


_YES_NO_CHANGES: tuple[tuple[str, str, str], ...] = (
    ("lacks_knowledge", "it fails for missing knowledge", "it does not lack knowledge"),
    ("wrong_behavior", "it fails in how it answers", "how it answers is right already"),
    ("better_prompt_is_enough", "a better prompt fixes it", "no prompt fixes it"),
    ("needs_privacy", "the data must stay at home", "the data may leave"),
    ("needs_speed", "answers must come faster", "speed does not matter"),
    ("prompt_caching", "the prompt is cached", "the prompt is not cached"),
    ("hosted_training_available", "the account may create jobs", "the account may not create jobs"),
)


def _single_answer_changes(inputs: AdviceInputs) -> Iterator[tuple[str, AdviceInputs]]:
    """Every answer that could be other than it is, or than it is taken to be while unknown."""
    for field, if_yes, if_no in _YES_NO_CHANGES:
        now = getattr(inputs, field)
        for value, sentence in ((True, if_yes), (False, if_no)):
            if now is not value:
                yield sentence, inputs.model_copy(update={field: value})
    count = inputs.clean_examples
    if count is None or count < RECOMMENDED_EXAMPLES:
        yield f"there were {RECOMMENDED_EXAMPLES} clean examples", _with(inputs, clean_examples=RECOMMENDED_EXAMPLES)
    if count is None or count >= RECOMMENDED_EXAMPLES:
        yield f"there were fewer than {RECOMMENDED_EXAMPLES} clean examples", _with(inputs, clean_examples=MIN_EXAMPLES)
    if inputs.shutdown_date is not None:
        yield "the hosted model had no end date", _with(inputs, shutdown_date=None)
    yield from _other_traffic(inputs)


def _other_traffic(inputs: AdviceInputs) -> Iterator[tuple[str, AdviceInputs]]:
    """Traffic on the other side of the break-even."""
    hosted = next((one.result for one in break_even_cases(inputs) if one.name == "hosted"), None)
    if hosted is None or hosted.calls is None:
        return
    needed = hosted.calls_per_day or max(1, -(-hosted.calls // MAX_BREAK_EVEN_DAYS))
    within = f"{hosted.horizon_days} days" if hosted.horizon_days else "a year"
    if (inputs.calls_per_day or 0) < needed:
        yield f"there were {needed:,} calls a day or more (even within {within})", _with(inputs, calls_per_day=needed)


def _with(inputs: AdviceInputs, **changes: object) -> AdviceInputs:
    return inputs.model_copy(update=changes)


def _observations(inputs: AdviceInputs, cases: tuple[BreakEvenCase, ...]) -> Iterator[str]:
    """What these very numbers teach; nothing is said that they do not show."""
    results = {one.name: one.result for one in cases}
    hosted = results.get("hosted")
    if hosted is None:
        return
    cached, plain = results.get("hosted, prompt cached", hosted), results.get("hosted, prompt not cached", hosted)
    if plain.calls is not None and cached.calls is None:
        yield "A shorter prompt pays only without caching: with the prompt cached the tuned call costs more, so never."
    if hosted.tuned_cached_tokens < inputs.tuned_prompt_tokens and hosted.base_cached_tokens:
        yield (
            f"The short prompt has fewer than {MIN_CACHED_PROMPT_TOKENS:,} tokens, so it is not cached and costs the "
            "full input price."
        )
    if not inputs.hosting_per_day:
        yield "For the local road nothing is counted for the machine; --machine-per-day does."
    people = inputs.labor_hours * inputs.hourly_rate
    if people > hosted.one_time.amount / 2:
        share = people / hosted.one_time.amount
        yield f"People are {share:.0%} of what is paid once: their time decides, not the training."
    if hosted.horizon_days is not None and hosted.horizon_days < MIN_DAYS_TO_SHUTDOWN:
        yield f"The hosted model answers for {hosted.horizon_days} more days only; whatever is saved ends with it."


def _unique(rows: list[TokenPrice]) -> list[TokenPrice]:
    """The rows once each, in order; records with fields of their own kind are compared, not hashed."""
    seen: list[TokenPrice] = []
    for row in rows:
        if row not in seen:
            seen.append(row)
    return seen
