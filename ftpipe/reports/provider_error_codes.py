"""Explains the codes with which endpoints reject requests or report failed jobs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorExplanation:
    """The explanation of one code."""

    what: str
    """What happened."""
    next: str
    """What to do about it."""
    rules: tuple[str, ...] = ()
    """Dataset rules that find the fault before anything is sent."""


ERROR_EXPLANATIONS = {
    "invalid_n_examples": ErrorExplanation(
        "the training file has too few examples; hosted endpoints require at least 10",
        "add examples, then run `ftpipe train` again",
        ("FT112",),
    ),
    "invalid_training_file": ErrorExplanation(
        "the endpoint rejected the training file: a line is malformed, has the wrong format for the method, or was "
        "blocked by moderation",
        "run `ftpipe prepare FILE` with the provider's rules to find the lines; the endpoint may count examples from 0",
        ("FT101", "FT108", "FT109", "FT204", "FT207"),
    ),
    "invalid_file_format": ErrorExplanation(
        "a line of the training file has an unknown key, lacks a key, or contains a token that is not allowed",
        "run `ftpipe prepare FILE` with the provider's rules to find the lines",
        ("FT101", "FT108", "FT204"),
    ),
    "invalid_validation_file": ErrorExplanation(
        "the endpoint rejected the validation file",
        "run `ftpipe prepare FILE` with the validation file to find the lines",
    ),
    "unsafe_file": ErrorExplanation(
        "the endpoint considers the training file unsafe, but does not say which lines",
        "look for content that the provider's usage policy forbids; see `ftpipe explain FT904`",
        ("FT904",),
    ),
    "exceeded_quota": ErrorExplanation(
        "the account ran out of credit or budget while the job was running", "raise the limit, then train again"
    ),
    "insufficient_quota": ErrorExplanation(
        "the account has no credit or budget left", "raise the limit, then train again"
    ),
    "training_not_available": ErrorExplanation(
        "this organization cannot create fine-tuning jobs, or can no longer create them; uploads and lists still work",
        "train with another provider: `ftpipe train` on this machine, or --provider azure or nebius",
    ),
    "daily_rate_limit_exceeded": ErrorExplanation(
        "the organization has reached today's limit of jobs for this model", "run `ftpipe resume` tomorrow"
    ),
    "rate_limit_exceeded": ErrorExplanation(
        "too many jobs are running or queued", "run `ftpipe resume` when one of them has finished"
    ),
    "model_not_found": ErrorExplanation(
        "there is no base model of this name at this endpoint", "`ftpipe models bases` lists what can be trained"
    ),
    "model_not_available": ErrorExplanation(
        "the base model does not exist at this endpoint, or cannot be fine-tuned",
        "choose another model with --model; `ftpipe models bases` lists what can be trained",
    ),
    "server_error": ErrorExplanation("the endpoint had an internal error; failed jobs are not billed", "train again"),
    "grader_error": ErrorExplanation(
        "the grader of a reinforcement job failed, gave a score that is not a number, or got no score from its model",
        "correct the grader; `POST /v1/fine_tuning/alpha/graders/run` of `ftpipe serve` tries it on one answer",
    ),
    "training_diverged": ErrorExplanation(
        "the loss was not a number any more", "train again with a lower --learning-rate-multiplier"
    ),
    "worker_died": ErrorExplanation(
        "the training process on this machine ended unexpectedly, often because it ran out of memory",
        "see `ftpipe serve logs` for its last output; a smaller --batch-size needs less memory",
    ),
}


def explain_error(code: str, message: str = "") -> ErrorExplanation | None:
    """The explanation of a code, or of the message if it mentions moderation.

    Args:
        code: From the endpoint.
        message: The endpoint's text.
    """
    text = message.lower()
    if "flagged" in text or "safety" in text or "moderation" in text:
        return ErrorExplanation(
            "the training file did not pass the endpoint's moderation",
            "remove the lines that it flags; if it names none, search by halving the file",
            ("FT903",),
        )
    return ERROR_EXPLANATIONS.get(code)
