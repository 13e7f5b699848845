"""What is known about a case before a recommendation; the field descriptions are the questions asked of the user."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from ftpipe.records import Record
from ftpipe.records.evaluation import TokenPrice

RECOMMENDED_EXAMPLES = 50
"""Clean examples from which tuning usually shows. Source: OpenAI's supervised fine-tuning guide, read 2026-11-24."""

MIN_EXAMPLES = 10
"""Examples below which OpenAI's server refuses a file; same source."""

MIN_DAYS_TO_SHUTDOWN = 180
"""A hosted model that is shut down sooner than this is not recommended."""

MAX_BREAK_EVEN_DAYS = 365
"""A break-even later than this is not a reason to tune: prices will have changed by then."""


class AdviceInputs(Record):
    """The known facts of a case; ``None`` means "not known"."""

    has_evaluation: bool | None = Field(None, description="Is there a test set with a measured baseline?")
    lacks_knowledge: bool | None = Field(
        None, description="Does it fail because it does not know something (facts, documents, current information)?"
    )
    wrong_behavior: bool | None = Field(
        None, description="Does it fail in how it answers (format, labels, tone, steps), although it knows enough?"
    )
    better_prompt_is_enough: bool | None = Field(
        None, description="Does a better prompt, or a few examples in the prompt, fix it?"
    )
    clean_examples: int | None = Field(
        None, ge=0, description="How many clean, labelled examples of the desired behavior are there?"
    )
    smaller_model_is_enough: bool | None = Field(
        None, description="Would a smaller model be enough if it were tuned for this one task?"
    )
    needs_privacy: bool | None = Field(None, description="Must the data stay on your own machines?")
    needs_speed: bool | None = Field(None, description="Must answers come faster than the current model gives them?")
    prompt_caching: bool | None = Field(
        None, description="Do calls come often enough for the endpoint to cache the prompt?"
    )
    hosted_training_available: bool | None = Field(None, description="Can your account still create fine-tuning jobs?")
    prompt_tokens: int | None = Field(
        None, ge=0, description="How many tokens of the prompt are the same in every call?"
    )
    tuned_prompt_tokens: int = Field(100, ge=0, description="How many of these tokens would remain after tuning?")
    variable_tokens: int = Field(200, ge=0, description="How many tokens of a call differ from call to call?")
    output_tokens: int = Field(150, ge=0, description="How many tokens does an answer have?")
    calls_per_day: float | None = Field(None, ge=0, description="How many calls are there per day?")
    training_tokens: int | None = Field(None, ge=0, description="How many tokens does the training file have?")
    epochs: int = Field(3, ge=1, le=50)
    epochs_low: int | None = Field(None, ge=1, le=50)
    epochs_high: int | None = Field(None, ge=1, le=50)
    data_cost: float = Field(0.0, ge=0)
    evaluation_cost: float = Field(0.0, ge=0)
    labor_hours: float = Field(0.0, ge=0, description="Hours of work (data, evaluation, maintenance)")
    hourly_rate: float = Field(0.0, ge=0, description="Cost of one hour of work")
    hosting_per_day: float = Field(0.0, ge=0, description="Cost per day of your own machine, for local serving")
    base: TokenPrice | None = None
    """Prices of the model that answers today."""
    tuned: TokenPrice | None = None
    """Prices of the tuned model, with its training price."""
    today: date | None = None
    shutdown_date: date | None = None
    """Day on which the tuned model is shut down."""


def question_of(field: str) -> str:
    """The question that a field answers."""
    return str(AdviceInputs.model_fields[field].description)
