"""The records of ``ftpipe advise``: the recommendation, how it was decided, and the break-even estimates."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from ftpipe.records.base import Record
from ftpipe.records.evaluation import TokenPrice


class Recommendation(StrEnum):
    """What to do."""

    RETRIEVAL = "retrieval"
    PROMPTING = "prompting"
    HOSTED = "hosted fine-tuning"
    LOCAL = "local LoRA fine-tuning"
    MIX = "retrieval and fine-tuning"


class CostFigure(Record):
    """An amount of money with its formula and the price rows it was computed from."""

    amount: float
    currency: str
    formula: str
    """The computation with the numbers filled in."""
    rows: tuple[TokenPrice, ...]
    """The price rows used, each with date and source."""


class BreakEven(Record):
    """When a tuned model has paid for itself, and the figures behind that."""

    base: CostFigure
    """1,000 calls to the base model."""
    tuned: CostFigure
    """1,000 calls to the tuned model."""
    one_time: CostFigure
    """Training, data, evaluation and labor."""
    prompt_caching: bool
    """Whether long prompts were assumed to be cached."""
    base_cached_tokens: int
    tuned_cached_tokens: int
    calls: int | None
    """Calls until the break-even; ``None`` if it is never reached."""
    horizon_days: int | None
    """Days until the tuned model is shut down; ``None`` if no date is announced."""
    calls_per_day: int | None
    """Calls per day that reach the break-even before the shutdown; ``None`` without a shutdown date, or for never."""
    days: float | None
    """Days until the break-even at the given traffic; ``None`` if the traffic is unknown, or for never."""
    outcome: Literal["pays off", "too late", "never", "depends on traffic"]


class BreakEvenCase(Record):
    """The break-even under one set of assumptions."""

    name: str
    """For example ``hosted, prompt not cached``."""
    result: BreakEven


class AdviceStep(Record):
    """One question of the decision, its answer, and what follows from it."""

    key: str
    question: str
    answer: str
    effect: str
    is_decisive: bool


class MissingAnswer(Record):
    """An answer without which nothing can be recommended."""

    field: str
    """Field of the inputs, for example ``lacks_knowledge``."""
    question: str


class Advice(Record):
    """The recommendation, its reason, what would change it, and the costs."""

    recommendation: Recommendation | None
    """``None`` if it would rest on answers that are not known; see ``missing``."""
    missing: tuple[MissingAnswer, ...] = ()
    """What must be known first; empty if there is a recommendation."""
    first_steps: tuple[str, ...]
    """What to do before following the recommendation."""
    reason: str
    steps: tuple[AdviceStep, ...]
    """The questions in order, up to the decisive one."""
    would_change: tuple[str, ...]
    """Single answers that would lead to another recommendation; each was found by deciding again with that answer."""
    epoch_cost: CostFigure | None
    """Cost of one training epoch; ``None`` if the tokens or the training price are unknown."""
    break_even: tuple[BreakEvenCase, ...]
    """With and without prompt caching, over the range of epochs, and for local training."""
    observations: tuple[str, ...]
    """What stands out in the figures."""
    prices: tuple[TokenPrice, ...]
    """Every price row that was used."""
