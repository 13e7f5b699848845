"""What endpoints mean by the codes of failed jobs and refused requests, and what to do about each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorExplanation:
    """One code, explained."""

    what: str
    """What has happened, in plain words."""
    next: str
    """What to do about it."""
    rules: tuple[str, ...] = ()
    """Dataset rules that find the same thing before anything is sent."""


ERROR_EXPLANATIONS = {
    "invalid_n_examples": ErrorExplanation(
        "the training file has too few examples; hosted endpoints want at least 10",
        "add examples, then `ftpipe train` again",
        ("FT112",),
    ),
    "invalid_training_file": ErrorExplanation(
        "the endpoint's own check refused the training file: a line is malformed, has the wrong format for the method, "
        "or was blocked by moderation",
        "`ftpipe prepare FILE` with the provider's rules names the lines; the endpoint may count examples from 0",
        ("FT101", "FT108", "FT109", "FT204", "FT207"),
    ),
    "invalid_file_format": ErrorExplanation(
        "a line of the training file has an unknown or a missing key, or a token that is not allowed",
        "`ftpipe prepare FILE` with the provider's rules names the lines",
        ("FT101", "FT108", "FT204"),
    ),
    "invalid_validation_file": ErrorExplanation(
        "the endpoint's own check refused the validation file",
        "`ftpipe prepare` with that file as DATA names the lines",
    ),
    "unsafe_file": ErrorExplanation(
        "the endpoint holds the training file to be unsafe and does not say which lines",
        "look for content that its usage policy forbids; `ftpipe explain FT904` has the details",
        ("FT904",),
    ),
    "exceeded_quota": ErrorExplanation(
        "the account's credit or budget ran out while the job was running", "raise the limit, then train again"
    ),
    "insufficient_quota": ErrorExplanation(
        "the account has no credit or budget left", "raise the limit, then train again"
    ),
    "training_not_available": ErrorExplanation(
        "this organization may not create fine-tuning jobs (any more); uploads and lists still work",
        "train at another provider: `ftpipe train` on this machine, or --provider azure or nebius",
    ),
    "daily_rate_limit_exceeded": ErrorExplanation(
        "the organization's number of jobs for this model is used up for today", "`ftpipe resume` tomorrow"
    ),
    "rate_limit_exceeded": ErrorExplanation(
        "too many jobs are running or waiting", "`ftpipe resume` when one of them has finished"
    ),
    "model_not_available": ErrorExplanation(
        "the base model does not exist there, or cannot be tuned", "choose another with --model"
    ),
    "server_error": ErrorExplanation(
        "something broke at the endpoint; nobody is billed for a failed job", "train again"
    ),
    "worker_died": ErrorExplanation(
        "the training process on this machine ended unexpectedly, often for want of memory",
        "`ftpipe serve logs` has its last words; a smaller --batch-size needs less memory",
    ),
}


def explain_error(code: str, message: str = "") -> ErrorExplanation | None:
    """The explanation of a code; where the code says little, of what the message is about.

    Args:
        code: As the endpoint sent it.
        message: The endpoint's text.
    """
    text = message.lower()
    if "flagged" in text or "safety" in text or "moderation" in text:
        return ErrorExplanation(
            "the training file failed the endpoint's moderation",
            "remove the lines that it flags; where it names none, halve the file to find them",
            ("FT903",),
        )
    return ERROR_EXPLANATIONS.get(code)
