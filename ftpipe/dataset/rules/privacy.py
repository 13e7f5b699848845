"""FT9: privacy and safety."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import HAS_REASONING
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.sensitive_data import find_personal_data, find_secrets

GROUP = RuleGroup("Privacy and safety")
rule = GROUP.rule
_MARKS = {"email": "email", "iban": "iban"}


@rule(
    "FT901",
    "secret",
    "error",
    "P",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="secret",
    fix=("unsafe", "replace it with [REDACTED]"),
)
def secret(row: DatasetRecord) -> Iterator[Violation]:
    """A text contains an API key, a token, a password or a private key.

    Why: It is sent to the service, and the tuned model can repeat it.
    Fix: Revoke it, and replace it with a made-up value.
    Source: published key formats; entropy and other checks exclude examples.
    """
    for text in row.texts:
        for match in find_secrets(text.value):
            yield Violation(text.path, f"The text contains {match.kind}: {escape_preview(match.masked, 30)}")


@rule(
    "FT902",
    "personal-data",
    "warning",
    "P",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="email number iban",
    fix=("unsafe", "replace it with [EMAIL], [PHONE] …"),
)
def personal_data(row: DatasetRecord) -> Iterator[Violation]:
    """A text contains an email address, a phone, card or social security number, or a bank account.

    Why: It is sent to the service, and the tuned model can repeat it.
    Fix: Replace it with a made-up value; choose the kinds to look for with checks.personal.
    Source: formats with their check digits (Luhn, ISO 7064 mod 97).
    """
    kinds = [kind for kind in row.file.settings.personal if row.is_marked(_MARKS.get(kind, "number"))]
    for text in row.texts:
        for match in find_personal_data(text.value, kinds):
            yield Violation(text.path, f"The text contains {match.kind}: {escape_preview(match.masked, 40)}")


@rule(
    "FT904",
    "reasoning-in-answer",
    "warning",
    "R",
    "inferred",
    when=HAS_REASONING,
    formats=MESSAGE_FORMATS,
    azure="error",
    local="off",
)
def reasoning_in_answer(row: DatasetRecord) -> Iterator[Violation]:
    """An answer contains a model's hidden reasoning (<think> …).

    Why: Azure rejects files that look like extracted reasoning (error unsafe_file), and does not name the lines.
    Fix: Keep the answer and remove the reasoning.
    Source: Azure, 2026-07 (unsafe_file); which texts cause the error is not known.
    """
    for text in row.texts:
        at = text.value.find("<think")
        if at >= 0 and text.role == "assistant":
            yield Violation(
                text.path, "The answer contains a reasoning block.", escape_preview(text.value[at : at + 80], 100)
            )


@rule(
    "FT906",
    "terminal-escape-sequence",
    "info",
    "L",
    "observed",
    formats=MESSAGE_FORMATS,
    mark="terminal",
    fix=("unsafe", "remove the sequence"),
)
def terminal_escape_sequence(row: DatasetRecord) -> Iterator[Violation]:
    """A text contains a terminal escape sequence.

    Why: Printed to a terminal, it changes colors, clears the screen, sets the title or hides a link.
    Fix: Remove it; program output rarely needs its colors.
    Source: measured with rich 15, 2026-11-24.
    """
    for text in row.texts:
        if "\x1b" in text.value or "\x9b" in text.value:
            yield Violation(text.path, "The text contains an ESC character.")
