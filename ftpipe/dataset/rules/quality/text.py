"""FT8: quality of single texts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftpipe.dataset.record import DatasetRecord, Text
from ftpipe.dataset.record_traits import (
    DANGLING_WORDS,
    LOOKS_TRUNCATED,
    POSSIBLE_REFUSAL,
    REPETITIVE,
    SURROUNDING_WHITESPACE,
)
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview

GROUP = RuleGroup("Quality")
rule = GROUP.rule

REFUSAL = re.compile(
    r"(?:I(?:'m|’m| am) (?:really |very )?sorry,? but (?:as an AI|I (?:can(?:'|’)?t|cannot|am unable))"
    r"|(?:Sorry,? )?(?:but )?I (?:can(?:'|’)?t|cannot|am unable to|won(?:'|’)t) (?:help|assist|comply|fulfill|provide)"
    r"|As an? (?:AI|artificial intelligence|large)? ?(?:language model|AI\b))",
    re.IGNORECASE,
)
VENDOR = re.compile(
    r"I(?:'m|’m| am) (?:ChatGPT|GPT-\d|Claude|Gemini|Bard|Copilot)\b"
    r"|(?:developed|trained|created|made) by (?:OpenAI|Anthropic|Google)\b"
)
_DANGLING = re.compile(rf"\b(?:{'|'.join(DANGLING_WORDS)})$", re.IGNORECASE)
_TRUNCATION_MARKER = re.compile(
    r"\bfinish_reason\b[\"']?\s*[:=]\s*[\"']?length\b|\[truncated\]|<truncated>|\.\.\. ?\(truncated\)"
)
MOJIBAKE = re.compile("Ã[\u0080-\u00bf]|â€[™œ\u009d“”¦]|Â[\u00a0-\u00bf](?=\\S|$)|ï»¿")
INVISIBLE = re.compile(
    "[\u200b\u2060-\u2064\u180e\ufeff\u202a-\u202e\u2066-\u2069]"
    "|(?<![\U0001f3f4\U000e0000-\U000e007f])[\U000e0000-\U000e007f]+"
)
_PLACEHOLDERS = (
    (
        ("TODO", "XXXX", "{{", "[Name]"),
        re.compile(r"\bTODO\b|\bXXXX+\b|\{\{ ?[A-Za-z_][\w ]{0,30} ?\}\}|\[Name\]"),
    ),
    (
        ("lorem ipsum", "<insert ", "[insert ", "<your ", "[your "),
        re.compile(r"\blorem ipsum\b|[<\[](?:insert|your) [^>\]\n]{1,40}[>\]]", re.IGNORECASE),
    ),
)
"""Prefixes and patterns; case matters if the lower-case word is ordinary (Spanish "todo", ``row[name]``)."""


def find_placeholder(text: str) -> re.Match[str] | None:
    """A placeholder in a text. Each match starts with a prefix, so the search starts at the first one in the text."""
    for searched, (prefixes, pattern) in zip((text, text.lower()), _PLACEHOLDERS, strict=True):
        starts = [at for at in map(searched.find, prefixes) if at >= 0]
        if not starts:
            continue
        # In some alphabets a lower-case letter is longer than its capital, so the positions differ.
        if match := pattern.search(text, min(starts) if len(searched) == len(text) else 0):
            return match
    return None


def answers(row: DatasetRecord) -> Iterator[Text]:
    """The texts that are trained."""
    for text in row.texts:
        if text.role == "assistant" and (row.kind != "dpo" or text.list_path == "preferred_output"):
            yield text


def excerpt_around(text: str, start: int, end: int) -> str:
    """An excerpt with some text before and after."""
    return escape_preview(text[max(0, start - 40) : end + 40], 140)


@rule("FT805", "refusal-boilerplate", "warning", "Q", "documented", when=POSSIBLE_REFUSAL, formats=MESSAGE_FORMATS)
def refusal_boilerplate(row: DatasetRecord) -> Iterator[Violation]:
    """An answer contains a stock refusal, such as "As an AI language model".

    Why: The tuned model refuses more often, also when it should help.
    Fix: Remove it, unless you want to teach the model to refuse.
    Source: OpenAI best-practices guide, 2026-07-15 (share of refusals).
    """
    for text in answers(row):
        match = REFUSAL.search(text.value[:200])
        if match:
            yield Violation(text.path, f"The answer says '{escape_preview(match.group())}'.")


def has_truncation_marker(tail: str) -> bool:
    """True if a text ends with a marker of truncation."""
    small = tail.lower()
    return ("truncated" in small or "finish_reason" in small) and _TRUNCATION_MARKER.search(small) is not None


@rule("FT807", "looks-truncated", "warning", "Q", "inferred", when=LOOKS_TRUNCATED, formats=MESSAGE_FORMATS)
def looks_truncated(row: DatasetRecord) -> Iterator[Violation]:
    """An answer seems to be cut off: an open code fence or bracket, or a comma or "the" at the end.

    Why: The model learns to stop in the middle.
    Fix: Complete the answer.
    Source: practice.
    """
    for text in answers(row):
        value = text.value.rstrip()
        reason = ""
        if value.count("```") % 2:
            reason = "a code fence is not closed"
        elif has_truncation_marker(value[-200:]):
            reason = "it contains a truncation marker"
        elif len(value) > 80 and (value[-1] in ",;" or _DANGLING.search(value[-8:])):
            reason = "it ends in the middle of a sentence"
        elif (
            value[:1] in ("{", "[")
            and len(value) > 20
            and value.count("{") + value.count("[") > value.count("}") + value.count("]")
        ):
            reason = "a bracket is not closed"
        if reason:
            yield Violation(text.path, f"The answer looks truncated: {reason}.", escape_preview(value[-80:], 100))


@rule(
    "FT809",
    "mojibake",
    "warning",
    "Q",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="mojibake",
    fix=("unsafe", "decode it again"),
)
def mojibake(row: DatasetRecord) -> Iterator[Violation]:
    """A text was decoded with the wrong encoding, such as "cafÃ©".

    Why: The model learns the garbled characters.
    Fix: Read the source as UTF-8.
    Source: practice.
    """
    for text in row.texts:
        match = MOJIBAKE.search(text.value)
        if match:
            yield Violation(
                text.path,
                f"'{escape_preview(match.group())}' is a wrongly decoded character.",
                excerpt_around(text.value, *match.span()),
            )


@rule(
    "FT810",
    "invisible-characters",
    "warning",
    "P",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="invisible",
    fix=("unsafe", "remove them"),
)
def invisible_characters(row: DatasetRecord) -> Iterator[Violation]:
    """A text contains zero-width characters, direction overrides or tag characters.

    Why: They hide words from readers, but not from the model.
    Fix: Remove them.
    Source: practice; Unicode TR 36.
    """
    for text in row.texts:
        match = INVISIBLE.search(text.value)
        if match:
            number = len(INVISIBLE.findall(text.value))
            yield Violation(
                text.path,
                f"Invisible characters in {number} place(s), the first is U+{ord(match.group()[0]):04X}.",
                excerpt_around(text.value, *match.span()),
            )


@rule(
    "FT812",
    "answer-whitespace",
    "info",
    "Q",
    "inferred",
    when=SURROUNDING_WHITESPACE,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "strip it"),
)
def answer_whitespace(row: DatasetRecord) -> Iterator[Violation]:
    """An answer starts or ends with whitespace.

    Why: The model learns to write it.
    Fix: Strip the answer.
    Source: practice; only the old prompt/completion format asked for a leading space.
    """
    for text in answers(row):
        if text.value.strip() and text.value != text.value.strip():
            side = "starts" if text.value[0].isspace() else "ends"
            yield Violation(text.path, f"The answer {side} with whitespace.")


@rule("FT813", "repetitive-answer", "warning", "Q", "inferred", when=REPETITIVE, formats=MESSAGE_FORMATS)
def repetitive_answer(row: DatasetRecord) -> Iterator[Violation]:
    """An answer ends with the same words over and over.

    Why: The model learns to repeat itself.
    Fix: Shorten the answer, or remove the record.
    Source: practice.
    """
    for text in answers(row):
        tail = text.value[-40:]
        times = text.value.count(tail) if len(text.value) > 400 and tail.strip() else 0
        if times > 4:
            yield Violation(text.path, f"'{escape_preview(tail.strip())}' appears {times:,} times.")


@rule("FT814", "placeholder-text", "warning", "Q", "inferred", formats=MESSAGE_FORMATS, mark="placeholder")
def placeholder_text(row: DatasetRecord) -> Iterator[Violation]:
    """An answer contains a placeholder: TODO, lorem ipsum, {{name}}, [Your Name], <insert …>.

    Why: The model learns to write the placeholder, or to invent a value for it.
    Fix: Replace it with real text.
    Source: engineersofai.com (placeholder lab values taught a model to invent them).
    """
    for text in answers(row):
        match = find_placeholder(text.value)
        if match:
            yield Violation(
                text.path,
                f"The answer contains the placeholder '{escape_preview(match.group(), 40)}'.",
                excerpt_around(text.value, *match.span()),
            )


@rule("FT816", "vendor-identity", "info", "Q", "inferred", when=POSSIBLE_REFUSAL, formats=MESSAGE_FORMATS)
def vendor_identity(row: DatasetRecord) -> Iterator[Violation]:
    """An answer claims to come from a vendor's model, such as "I am ChatGPT".

    Why: The tuned model will say the same.
    Fix: Use the name that you want, or no name.
    Source: practice.
    """
    for text in answers(row):
        match = VENDOR.search(text.value[:400])
        if match:
            yield Violation(text.path, f"The answer says '{escape_preview(match.group())}'.")
