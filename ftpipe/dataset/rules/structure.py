"""FT1: records, one JSON object per line, all of one format."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.check_settings import or_remove
from ftpipe.dataset.formats import CHAT_KEYS, FORMAT_OF, legacy_shape, shape_of
from ftpipe.dataset.json_line import MAX_DEPTH, MAX_SAFE_INTEGER, Line
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import NON_PLAIN
from ftpipe.dataset.rules.base import RuleGroup, Violation, escape_preview, key_path
from ftpipe.dataset.scan.statistics import ScanStatistics

FAMILY = RuleGroup("Records")
rule = FAMILY.rule

MIN_EXAMPLES = {"openai": 10, "azure": 10, "nebius": 1, "local": 1}
"""Source: OpenAI and Azure supervised guides, 2026; Nebius names no minimum."""
FEW_EXAMPLES = 50
NAMED_KEYS = 100
"""Unknown keys of one record that are named; the rest is counted."""


@rule("FT101", "invalid-json", "error", "R", "observed", scope="line")
def invalid_json(line: Line) -> Iterator[Violation]:
    """A line is not JSON.

    Why: The service parses every line and refuses the file at the first that it cannot.
    Fix: Repair the line; write records with a JSON library, never by hand or str().
    Source: server text in openai-openapi#24.
    """
    if line.parsed or line.text is None or not line.raw.strip():
        return
    seen = line.details
    if line.depth > MAX_DEPTH or seen.extra_data or seen.duplicates or seen.constants or seen.surrogates:
        return
    if seen.ok:
        if not line.raw.lstrip().startswith(b"\xef\xbb\xbf") and not any(
            byte < 32 and byte not in b"\t\r" for byte in line.raw
        ):
            yield Violation("", "A strict parser refuses the line.", escape_preview(line.text))
        return
    column = seen.column or 1
    hint = python_habit(line.text)
    around = line.text[max(0, column - 30) : column + 30]
    yield Violation("", f"Not JSON: {seen.error} at column {column}.", escape_preview(around, 160), hint=hint)


def python_habit(text: str) -> str:
    """A better hint for lines that are a Python literal or that a comma ends."""
    stripped = text.strip()
    if stripped.startswith("{'") or ": None" in stripped or ": True" in stripped:
        return "This looks like a Python dict: write it with json.dumps(record)."
    return "Remove the comma at the end of the line." if stripped.endswith("},") else ""


@rule("FT102", "record-not-object", "error", "R", "observed", scope="line")
def record_not_object(line: Line) -> Iterator[Violation]:
    """A line is JSON, but not an object.

    Why: Every line must be a dictionary with the keys of its format.
    Fix: Put the record into {…} with the key messages.
    Source: server text in openai-python#426.
    """
    if line.parsed and type(line.record) is not dict:
        kind = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(
            type(line.record), "a number"
        )
        yield Violation("", f"The line is {kind}, not an object.", escape_preview(line.text or "", 160))


@rule("FT103", "not-jsonl", "error", "R", "observed", scope="line", fix=("safe", "write one object per line"))
def two_values(line: Line) -> Iterator[Violation]:
    """A record spans several lines, or one line holds several values.

    Why: JSON lines means one object per line; readers split at the newline first.
    Fix: Write each record on a line of its own, without line breaks inside.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if line.record == "pretty":
        yield Violation("", f"The record spans {line.offset} lines.")
    elif not line.parsed and line.text is not None and line.details.extra_data:
        yield Violation("", f"A second value begins at column {line.details.column}.", escape_preview(line.text, 160))


@rule("FT103", "not-jsonl", "error", "R", "observed", scope="file", fix=("safe", "write one object per line"))
def not_jsonl(stats: ScanStatistics) -> Iterator[Violation]:
    """The whole file is one JSON value.

    Why: JSON lines means one object per line.
    Fix: Write each record on a line of its own: ``ftpipe convert`` does it.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if stats.file.layout == "array":
        yield Violation("", "The file is one JSON array.", line=1)
    elif stats.file.layout == "pretty":
        yield Violation("", "The file is pretty-printed JSON.", line=1)


@rule("FT104", "duplicate-key", "error", "L", "observed", scope="line")
def duplicate_key(line: Line) -> Iterator[Violation]:
    """One object holds the same key twice.

    Why: Parsers silently keep the last one, so what is trained is not what you see.
    Fix: Keep one of them.
    Source: json, orjson, msgspec and pydantic_core measured, 2026-11-24.
    """
    for path, key, times in line.details.duplicates:
        yield Violation(
            escape_preview(path, 120), f"The key '{escape_preview(key, 40)}' stands {times} times in one object."
        )


@rule("FT105", "non-finite-number", "error", "L", "observed", scope="line")
def non_finite_number(line: Line) -> Iterator[Violation]:
    """A number is NaN, infinite, or too large for a JSON number.

    Why: NaN and Infinity are not JSON; whole numbers beyond 2^53 change when they are read.
    Fix: Write null, a string, or a number that fits.
    Source: RFC 8259; parsers measured, 2026-11-24.
    """
    if not line.parsed:
        if line.text is not None:
            for word in line.details.constants:
                yield Violation("", f"{escape_preview(word, 40)} is no number that JSON parsers keep.")
        return
    for path, value in numbers_of(line.record):
        if abs(value) > MAX_SAFE_INTEGER and value == int(value):
            yield Violation(path, f"{escape_preview(value, 40)} is beyond 2^53 and changes when it is read.")


def numbers_of(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number inside a JSON value with its path, booleans left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_of(inner, key_path(path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers_of(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


@rule("FT106", "lone-surrogate", "error", "L", "observed", scope="line", fix=("unsafe", "replace it by U+FFFD"))
def lone_surrogate(line: Line) -> Iterator[Violation]:
    r"""A string holds half of a surrogate pair, such as ``\ud83d`` alone.

    Why: It is no character; it cannot be written as UTF-8, and tokenizers fail on it.
    Fix: Write the whole character; texts are usually cut in the middle of an emoji.
    Source: RFC 8259 §8.2; parsers measured, 2026-11-24.
    """
    if not line.parsed and line.text is not None:
        for path in line.details.surrogates:
            yield Violation(path, "The text holds half of a surrogate pair.")


@rule("FT107", "too-deep", "error", "L", "observed", scope="line")
def too_deep(line: Line) -> Iterator[Violation]:
    """Objects and arrays nest deeper than 64 levels.

    Why: Parsers stop or crash at depths that differ from one to the next.
    Fix: Flatten the record; a chat line needs about ten levels.
    Source: json, orjson, msgspec measured, 2026-11-24.
    """
    if line.depth > MAX_DEPTH:
        yield Violation("", f"The record nests {line.depth:,} levels deep.")


@rule("FT108", "mixed-formats", "error", "R", "observed", when=NON_PLAIN)
def mixed_formats(row: DatasetRecord) -> Iterator[Violation]:
    """A record has another format than the rest of the file.

    Why: A job has one method and reads one format; the service refuses a mixture.
    Fix: Put the formats into files of their own.
    Source: server text, public code.
    """
    own, rest = shape_of(row.record), row.file.format
    expected = "messages" if rest in ("chat", "rft") else rest
    if own != expected and own != "unknown" and expected != "unknown":
        name = legacy_shape(row.record) or {"messages": "chat", "dpo": "DPO"}.get(own, own)
        yield Violation("", f"This record is {name}, the file is {rest}.")


@rule("FT109", "format-method-mismatch", "error", "R", "observed", scope="file")
def format_method_mismatch(stats: ScanStatistics) -> Iterator[Violation]:
    """The file's format does not fit the method that was asked for.

    Why: The job fails after its creation: the detected format must be the method's.
    Fix: Ask for the method that the file is made for, or convert the file.
    Source: public run log, 2024-12.
    """
    wanted = FORMAT_OF.get(stats.file.method or "")
    if wanted and stats.file.format not in (wanted, "unknown", "legacy"):
        yield Violation("", f"The file is {stats.file.format}, the method {stats.file.method} reads {wanted}.", line=1)


@rule(
    "FT110",
    "extra-top-level-key",
    "error",
    "R",
    "observed",
    when=NON_PLAIN,
    formats=frozenset({"chat", "dpo"}),
    fix=("safe", "move it to a sidecar file"),
)
def extra_top_level_key(row: DatasetRecord) -> Iterator[Violation]:
    """A key stands beside ``messages`` that the format does not have.

    Why: The service refuses unknown keys in supervised and preference files (in reinforcement they are reference data).
    Fix: Remove the key; what must be kept goes into a file of its own.
    Source: public run logs, code invalid_file_format; OpenAI API description of 2025-05-20.
    """
    known = CHAT_KEYS if row.kind == "chat" else frozenset({"input", "preferred_output", "non_preferred_output"})
    if row.kind == "chat" and "messages" not in row.record:
        return
    extra = [key for key in row.record if key not in known]
    for key in extra[:NAMED_KEYS]:
        yield Violation(
            key_path("", key), f"The key '{escape_preview(key, 40)}' is not known.", hint=or_remove(key, known)
        )
    if len(extra) > NAMED_KEYS:
        more = len(extra) - NAMED_KEYS
        yield Violation("", f"{more:,} more keys of the record are not known.", weight=more)


@rule("FT111", "legacy-format", "error", "D", "documented", scope="file", formats=frozenset({"legacy"}))
def legacy_format(stats: ScanStatistics) -> Iterator[Violation]:
    """The file is in an old format: prompt/completion, Alpaca or ShareGPT.

    Why: Chat models are trained on messages; the models that took prompt/completion pairs are gone.
    Fix: Convert it: ``ftpipe convert FILE``.
    Source: OpenAI deprecations page (babbage-002, davinci-002: training closed 2024-10-28).
    """
    yield Violation("", f"All records are {stats.file.legacy_shape or 'of an old format'}.", line=1)


@rule("FT112", "too-few-examples", "error", "R", "observed", scope="file")
def too_few_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has fewer examples than the target's minimum.

    Why: The job fails with invalid_n_examples.
    Fix: Add examples; quality starts at about 50.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15; several public fixtures.
    """
    least = MIN_EXAMPLES.get(stats.file.target, 1)
    if 0 < stats.examples < least and stats.file.role == "train" and stats.file.layout == "lines":
        yield Violation("", f"The file has {stats.examples} example(s); {stats.file.target} needs at least {least}.")


@rule("FT113", "few-examples", "info", "D", "documented", scope="file")
def few_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has fewer than 50 examples.

    Why: Gains are usually visible from 50 to 100 well-made examples.
    Fix: Add examples where the model still fails.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if MIN_EXAMPLES.get(stats.file.target, 1) <= stats.examples < FEW_EXAMPLES and stats.file.role == "train":
        yield Violation("", f"The file has {stats.examples} examples; {FEW_EXAMPLES} are a sensible start.")
