"""FT9: privacy and safety."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import HAS_REASONING
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.sensitive_data import find_personal_data, find_secrets

FAMILY = RuleGroup("Privacy and safety")
rule = FAMILY.rule
_MARKS = {"email": "email", "iban": "iban"}


@rule(
    "FT901",
    "secret",
    "error",
    "P",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="secret",
    fix=("unsafe", "put [REDACTED] in its place"),
)
def secret(row: DatasetRecord) -> Iterator[Violation]:
    """A text holds a key, token, password or private key.

    Why: It is sent to the service, and a tuned model can say it.
    Fix: Revoke it, and put a made-up value in its place.
    Source: published key formats; entropy and checks keep examples out.
    """
    for text in row.texts:
        for found in find_secrets(text.value):
            yield Violation(text.path, f"The text holds {found.kind}: {escape_preview(found.masked, 30)}")


@rule(
    "FT902",
    "pii",
    "warning",
    "P",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="email number iban",
    fix=("unsafe", "put [EMAIL], [PHONE] … in its place"),
)
def pii(row: DatasetRecord) -> Iterator[Violation]:
    """A text holds personal data: an e-mail address, phone, card, bank account or social security number.

    Why: It is sent to the service, and a tuned model can say it.
    Fix: Put made-up values in their place; choose kinds with checks.personal.
    Source: formats with their check digits (Luhn, ISO 7064 mod 97).
    """
    kinds = [kind for kind in row.file.settings.personal if row.is_marked(_MARKS.get(kind, "number"))]
    for text in row.texts:
        for found in find_personal_data(text.value, kinds):
            yield Violation(text.path, f"The text holds {found.kind}: {escape_preview(found.masked, 40)}")


@rule(
    "FT904",
    "reasoning-extraction",
    "warning",
    "R",
    "inferred",
    when=HAS_REASONING,
    formats=MESSAGE_FORMATS,
    azure="error",
    local="off",
)
def reasoning_extraction(row: DatasetRecord) -> Iterator[Violation]:
    """An answer holds a model's hidden reasoning (<think> …).

    Why: Azure refuses files that look like harvested chains of thought (code unsafe_file), without naming lines.
    Fix: Keep the answer, drop the reasoning.
    Source: Azure, 2026-07 (unsafe_file); which texts set it off is not known.
    """
    for text in row.texts:
        at = text.value.find("<think")
        if at >= 0 and text.role == "assistant":
            yield Violation(
                text.path, "The answer holds a reasoning block.", escape_preview(text.value[at : at + 80], 100)
            )


@rule(
    "FT906",
    "terminal-escape",
    "info",
    "L",
    "observed",
    formats=MESSAGE_FORMATS,
    mark="terminal",
    fix=("unsafe", "remove the sequence"),
)
def terminal_escape(row: DatasetRecord) -> Iterator[Violation]:
    """A text holds a terminal escape sequence.

    Why: Printed as it is, it recolours, clears or retitles a terminal, or hides a link.
    Fix: Remove it; program output is usually meant without colours.
    Source: measured with rich 15, 2026-11-24.
    """
    for text in row.texts:
        if "\x1b" in text.value or "\x9b" in text.value:
            yield Violation(text.path, "The text holds ESC.")
