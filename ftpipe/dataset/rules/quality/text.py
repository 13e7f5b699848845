"""FT8, one text at a time."""

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

FAMILY = RuleGroup("Quality")
rule = FAMILY.rule

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
_RESIDUE = re.compile(
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
"""Signs and patterns; capitals matter where the small word is an ordinary one (Spanish "todo", ``row[name]``)."""


def placeholder_in(text: str) -> re.Match[str] | None:
    """A placeholder that a text holds; patterns are tried from the first sign on, with which every match begins."""
    for looked_at, (signs, pattern) in zip((text, text.lower()), _PLACEHOLDERS, strict=True):
        places = [at for at in map(looked_at.find, signs) if at >= 0]
        if not places:
            continue
        # Small letters of other alphabets can be longer than capitals, so that places differ.
        if found := pattern.search(text, min(places) if len(looked_at) == len(text) else 0):
            return found
    return None


def answers(row: DatasetRecord) -> Iterator[Text]:
    """The texts that are learnt."""
    for text in row.texts:
        if text.role == "assistant" and (row.kind != "dpo" or text.base == "preferred_output"):
            yield text


def around(text: str, start: int, end: int) -> str:
    """An excerpt with the place in its middle."""
    return escape_preview(text[max(0, start - 40) : end + 40], 140)


@rule("FT805", "refusal-boilerplate", "warning", "Q", "documented", when=POSSIBLE_REFUSAL, formats=MESSAGE_FORMATS)
def refusal_boilerplate(row: DatasetRecord) -> Iterator[Violation]:
    """An answer refuses in stock words, such as "As an AI language model".

    Why: The tuned model refuses more, also where it should help.
    Fix: Drop it unless refusing is what you teach.
    Source: OpenAI best-practices guide, 2026-07-15 (share of refusals).
    """
    for text in answers(row):
        found = REFUSAL.search(text.value[:200])
        if found:
            yield Violation(text.path, f"The answer says '{escape_preview(found.group())}'.")


def has_residue(tail: str) -> bool:
    """True where a text ends with what a cut leaves behind."""
    small = tail.lower()
    return ("truncated" in small or "finish_reason" in small) and _RESIDUE.search(small) is not None


@rule("FT807", "looks-cut-off", "warning", "Q", "inferred", when=LOOKS_TRUNCATED, formats=MESSAGE_FORMATS)
def looks_cut_off(row: DatasetRecord) -> Iterator[Violation]:
    """An answer seems to break off: an open code fence or bracket, a comma or "the" at its end.

    Why: The model learns to stop in the middle.
    Fix: Complete the answer.
    Source: practice.
    """
    for text in answers(row):
        value = text.value.rstrip()
        reason = ""
        if value.count("```") % 2:
            reason = "a code fence is open"
        elif has_residue(value[-200:]):
            reason = "it holds words of a cut"
        elif len(value) > 80 and (value[-1] in ",;" or _DANGLING.search(value[-8:])):
            reason = "it ends in the middle of a sentence"
        elif (
            value[:1] in ("{", "[")
            and len(value) > 20
            and value.count("{") + value.count("[") > value.count("}") + value.count("]")
        ):
            reason = "a bracket is open"
        if reason:
            yield Violation(text.path, f"The answer looks cut off: {reason}.", escape_preview(value[-80:], 100))


@rule(
    "FT809",
    "mojibake",
    "warning",
    "Q",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="mojibake",
    fix=("unsafe", "decode once more"),
)
def mojibake(row: DatasetRecord) -> Iterator[Violation]:
    """A text was decoded in the wrong encoding, such as "cafÃ©".

    Why: The model learns the broken characters.
    Fix: Read the source as UTF-8.
    Source: practice.
    """
    for text in row.texts:
        found = MOJIBAKE.search(text.value)
        if found:
            yield Violation(
                text.path,
                f"'{escape_preview(found.group())}' is a wrongly decoded character.",
                around(text.value, *found.span()),
            )


@rule(
    "FT810",
    "invisible-chars",
    "warning",
    "P",
    "inferred",
    formats=MESSAGE_FORMATS,
    mark="invisible",
    fix=("unsafe", "remove them"),
)
def invisible_chars(row: DatasetRecord) -> Iterator[Violation]:
    """A text holds zero-width characters, direction overrides or tag characters.

    Why: They hide words from readers and not from the model.
    Fix: Remove them.
    Source: practice; Unicode TR 36.
    """
    for text in row.texts:
        found = INVISIBLE.search(text.value)
        if found:
            number = len(INVISIBLE.findall(text.value))
            yield Violation(
                text.path,
                f"U+{ord(found.group()[0]):04X} and in all {number} invisible place(s).",
                around(text.value, *found.span()),
            )


@rule(
    "FT812",
    "whitespace",
    "info",
    "Q",
    "inferred",
    when=SURROUNDING_WHITESPACE,
    formats=MESSAGE_FORMATS,
    fix=("safe", "strip it"),
)
def whitespace(row: DatasetRecord) -> Iterator[Violation]:
    """An answer begins or ends with blanks or line breaks.

    Why: The model learns to write them.
    Fix: Strip the answer.
    Source: practice; a leading blank was the rule in the prompt/completion format only.
    """
    for text in answers(row):
        if text.value.strip() and text.value != text.value.strip():
            side = "begins" if text.value[0].isspace() else "ends"
            yield Violation(text.path, f"The answer {side} with blanks.")


@rule("FT813", "repetition-loop", "warning", "Q", "inferred", when=REPETITIVE, formats=MESSAGE_FORMATS)
def repetition_loop(row: DatasetRecord) -> Iterator[Violation]:
    """An answer ends in the same words again and again.

    Why: The model learns to loop.
    Fix: Cut it, or drop the record.
    Source: practice.
    """
    for text in answers(row):
        tail = text.value[-40:]
        times = text.value.count(tail) if len(text.value) > 400 and tail.strip() else 0
        if times > 4:
            yield Violation(text.path, f"'{escape_preview(tail.strip())}' stands {times:,} times.")


@rule("FT814", "placeholder-left", "warning", "Q", "inferred", formats=MESSAGE_FORMATS, mark="placeholder")
def placeholder_left(row: DatasetRecord) -> Iterator[Violation]:
    """An answer holds a placeholder: TODO, lorem ipsum, {{name}}, [Your Name], <insert …>.

    Why: The model learns to write it, or to invent what should stand there.
    Fix: Fill it in.
    Source: engineersofai.com (placeholder lab values taught a model to invent).
    """
    for text in answers(row):
        found = placeholder_in(text.value)
        if found:
            yield Violation(
                text.path,
                f"The placeholder '{escape_preview(found.group(), 40)}' is left.",
                around(text.value, *found.span()),
            )


@rule("FT816", "vendor-identity", "info", "Q", "inferred", when=POSSIBLE_REFUSAL, formats=MESSAGE_FORMATS)
def vendor_identity(row: DatasetRecord) -> Iterator[Violation]:
    """An answer says that it is a vendor's model, such as "I am ChatGPT".

    Why: The tuned model says so, too.
    Fix: Let it name itself as you want, or not at all.
    Source: practice.
    """
    for text in answers(row):
        found = VENDOR.search(text.value[:400])
        if found:
            yield Violation(text.path, f"The answer says '{escape_preview(found.group())}'.")
