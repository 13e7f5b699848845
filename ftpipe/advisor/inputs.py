"""What is known about a case before a road is chosen; its descriptions are the questions that the user is asked."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from pydantic import Field

from ftpipe.records import Record
from ftpipe.records.evaluation import TokenPrice

RECOMMENDED_EXAMPLES = 50
"""Clean examples from which tuning usually shows. Source: OpenAI's supervised fine-tuning guide, read 2026-11-24."""

MIN_EXAMPLES = 10
"""Examples below which OpenAI's server refuses a file; same source."""

MIN_DAYS_TO_SHUTDOWN = 180
"""A tuned model that ends sooner than this is not built upon."""

MAX_BREAK_EVEN_DAYS = 365
"""A saving that takes longer than this to come is no reason; prices will have changed by then."""


class Recommendation(StrEnum):
    """Where to go."""

    RETRIEVAL = "retrieval"
    PROMPTING = "prompting"
    HOSTED = "fine-tune, hosted"
    LOCAL = "fine-tune, local LoRA"
    MIX = "mix: retrieval and fine-tuning"


class AdviceInputs(Record):
    """What is known about the case; ``None`` is "not known", and the advice says what hangs on it."""

    has_evaluation: bool | None = Field(None, description="Is there a test set with a measured baseline?")
    lacks_knowledge: bool | None = Field(
        None, description="Does it fail because it does not know something (facts, documents, current information)?"
    )
    wrong_behavior: bool | None = Field(
        None, description="Does it fail in how it answers (format, labels, tone, steps), although it knows enough?"
    )
    better_prompt_is_enough: bool | None = Field(
        None, description="Does a better prompt, or a few examples in it, fix it?"
    )
    clean_examples: int | None = Field(
        None, ge=0, description="How many clean, labelled examples of the wanted behaviour are there?"
    )
    smaller_model_is_enough: bool | None = Field(
        None, description="Would a smaller model do, if it were tuned for this one task?"
    )
    needs_privacy: bool | None = Field(None, description="Must the data stay on your own machines?")
    needs_speed: bool | None = Field(None, description="Must answers come faster than the large model gives them?")
    prompt_caching: bool | None = Field(
        None, description="Do calls come steadily enough for the endpoint to cache the prompt?"
    )
    hosted_training_available: bool | None = Field(None, description="May your account still create fine-tuning jobs?")
    prompt_tokens: int | None = Field(
        None, ge=0, description="How many tokens of the prompt are the same in every call?"
    )
    tuned_prompt_tokens: int = Field(100, ge=0, description="How many of them would be left after tuning?")
    variable_tokens: int = Field(200, ge=0, description="How many tokens of a call are different each time?")
    output_tokens: int = Field(150, ge=0, description="How many tokens does an answer have?")
    calls_per_day: float | None = Field(None, ge=0, description="How many calls are there a day?")
    training_tokens: int | None = Field(None, ge=0, description="How many tokens does the training file have?")
    epochs: int = Field(3, ge=1, le=50)
    epochs_low: int | None = Field(None, ge=1, le=50)
    epochs_high: int | None = Field(None, ge=1, le=50)
    data_cost: float = Field(0.0, ge=0)
    evaluation_cost: float = Field(0.0, ge=0)
    labor_hours: float = Field(0.0, ge=0, description="Hours of people's work (data, evaluation, upkeep)")
    hourly_rate: float = Field(0.0, ge=0, description="Cost of one such hour")
    hosting_per_day: float = Field(0.0, ge=0, description="Cost of your own machine a day, for the local road")
    base: TokenPrice | None = None
    """Row of the model that answers now."""
    tuned: TokenPrice | None = None
    """Row of the model that would be tuned, at its tuned prices."""
    today: date | None = None
    shutdown_date: date | None = None
    """Day on which the tuned model would stop answering."""
