"""FT1: the records of a file: one JSON object per line, all of one format."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.conversion.row import MEANINGFUL_KEYS, normalize_key
from ftpipe.dataset.conversion.verdicts import VERDICT_KEYS
from ftpipe.dataset.formats import (
    DPO_KEYS,
    FORMAT_OF,
    HOST_KEYS,
    LAYOUT_FAULTS,
    NOT_DATA,
    OTHER_FORMATS,
    chat_keys,
    legacy_shape,
    shape_of,
)
from ftpipe.dataset.json_line import MAX_DEPTH, MAX_SAFE_INTEGER, Json, Line
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import NON_PLAIN
from ftpipe.dataset.rules.base import RuleGroup, Violation, describe_value, escape_preview, key_path
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.suggestions import did_you_mean_or_remove

GROUP = RuleGroup("Records")
rule = GROUP.rule

MIN_EXAMPLES = {"openai": 10, "azure": 10, "nebius": 1, "local": 1, "together": 1, "fireworks": 3, "bedrock": 100}
"""Source: OpenAI and Azure supervised guides, 2026; docs.together.ai, docs.fireworks.ai and the Bedrock user guide,
reinforcement fine-tuning, read 2026-11; Nebius states no minimum."""
MAX_EXAMPLES = {"fireworks": 3_000_000, "bedrock": 20_000}
"""Source: the same guides; OpenAI documents none for supervised files."""
FEW_EXAMPLES = 50
KTO_HINT = (
    "Rows whose label is false hold answers that the model must not learn. `ftpipe convert FILE` leaves them out, or "
    "pairs each with a good answer to the same prompt; do not remove the label by hand."
)
MAX_LISTED_KEYS = 100
"""Unknown keys of one record that are listed; the rest are only counted."""


@rule("FT101", "invalid-json", "error", "R", "observed", scope="line")
def invalid_json(line: Line) -> Iterator[Violation]:
    """A line is not valid JSON.

    Why: The service parses every line and rejects the file at the first invalid one.
    Fix: Correct the line. Write records with a JSON library, not by hand and not with str().
    Source: server message in openai-openapi#24.
    """
    if line.parsed or line.text is None or not line.raw.strip():
        return
    details = line.tolerant_parse
    if line.depth > MAX_DEPTH or details.extra_data or details.duplicates or details.constants or details.surrogates:
        return
    if details.ok:
        if not line.raw.lstrip().startswith(b"\xef\xbb\xbf") and not any(
            byte < 32 and byte not in b"\t\r" for byte in line.raw
        ):
            yield Violation("", "A strict JSON parser rejects the line.", escape_preview(line.text))
        return
    column = details.column or 1
    hint = syntax_hint(line.text)
    around = line.text[max(0, column - 30) : column + 30]
    yield Violation("", f"Not valid JSON: {details.error} at column {column}.", escape_preview(around, 160), hint=hint)


def syntax_hint(text: str) -> str:
    """A more specific hint for a line that is a Python literal or ends with a comma; empty for other lines."""
    stripped = text.strip()
    if stripped.startswith("{'") or ": None" in stripped or ": True" in stripped:
        return "This looks like a Python dict: write it with json.dumps(record)."
    return "Remove the comma at the end of the line." if stripped.endswith("},") else ""


@rule("FT102", "record-not-object", "error", "R", "observed", scope="line")
def record_not_object(line: Line) -> Iterator[Violation]:
    """A line is JSON, but not an object.

    Why: Every line must be an object with the keys of its format.
    Fix: Put the record into {…} with the key messages.
    Source: server message in openai-python#426.
    """
    if line.parsed and type(line.record) is not dict:
        kind = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(
            type(line.record), "a number"
        )
        first = line.record[0] if type(line.record) is list and line.record else None
        hint = "Convert it: `ftpipe convert FILE`." if type(first) in (dict, list) else ""
        yield Violation("", f"The line is {kind}, not an object.", escape_preview(line.text or "", 160), hint=hint)


@rule("FT103", "not-jsonl", "error", "R", "observed", scope="line", fix=("safe", "write one object per line"))
def several_values(line: Line) -> Iterator[Violation]:
    """A record spans several lines, or one line contains several values.

    Why: JSON Lines has one object per line; readers split at newlines first.
    Fix: Write each record on one line, without line breaks inside.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if line.record == "pretty":
        yield Violation("", f"The record spans {line.offset} lines.")
    elif not line.parsed and line.text is not None and line.tolerant_parse.extra_data:
        yield Violation(
            "", f"A second value starts at column {line.tolerant_parse.column}.", escape_preview(line.text, 160)
        )


@rule("FT103", "not-jsonl", "error", "R", "observed", scope="file", fix=("safe", "write one object per line"))
def not_jsonl(stats: ScanStatistics) -> Iterator[Violation]:
    """The whole file is one JSON value or a table.

    Why: JSON Lines has one object per line.
    Fix: Write each record on its own line: ``ftpipe convert FILE`` does this.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if stats.file.layout in ("array", "pretty", "table", *NOT_DATA):
        hint = "Convert it: `ftpipe convert FILE`." if stats.file.layout in OTHER_FORMATS else ""
        hint = "Download it again." if stats.file.layout in NOT_DATA else hint
        yield Violation("", LAYOUT_FAULTS[stats.file.layout], line=1, hint=hint)


@rule("FT104", "duplicate-key", "error", "L", "observed", scope="line")
def duplicate_key(line: Line) -> Iterator[Violation]:
    """An object contains the same key twice.

    Why: Parsers silently keep the last value, so the model is not trained on what you see.
    Fix: Keep one of them.
    Source: json, orjson, msgspec and pydantic_core measured, 2026-11-24.
    """
    for path, key, times in line.tolerant_parse.duplicates:
        yield Violation(
            escape_preview(path, 120), f"The key '{escape_preview(key, 40)}' appears {times} times in one object."
        )


@rule("FT105", "non-finite-number", "error", "L", "observed", scope="line")
def non_finite_number(line: Line) -> Iterator[Violation]:
    """A number is NaN, infinite or too large for JSON.

    Why: NaN and Infinity are not valid JSON; integers beyond 2^53 lose precision when they are parsed.
    Fix: Write null, a string or a smaller number.
    Source: RFC 8259; parsers measured, 2026-11-24.
    """
    if not line.parsed:
        if line.text is not None:
            for word in line.tolerant_parse.constants:
                yield Violation("", f"{escape_preview(word, 40)} is not a number that JSON parsers can represent.")
        return
    for path, value in numbers_of(line.record):
        if abs(value) > MAX_SAFE_INTEGER and value == int(value):
            yield Violation(path, f"{escape_preview(value, 40)} is beyond 2^53 and loses precision when it is parsed.")


def numbers_of(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number inside a JSON value with its path, without booleans."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_of(inner, key_path(path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers_of(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


@rule("FT106", "lone-surrogate", "error", "L", "observed", scope="line", fix=("unsafe", "replace it with U+FFFD"))
def lone_surrogate(line: Line) -> Iterator[Violation]:
    r"""A string contains half of a surrogate pair, such as ``\ud83d`` alone.

    Why: It is not a character: it cannot be encoded as UTF-8, and tokenizers fail on it.
    Fix: Write the whole character. The usual cause is text that was cut in the middle of an emoji.
    Source: RFC 8259 §8.2; parsers measured, 2026-11-24.
    """
    if not line.parsed and line.text is not None:
        for path in line.tolerant_parse.surrogates:
            yield Violation(path, "The text contains half of a surrogate pair.")


@rule("FT107", "nesting-too-deep", "error", "L", "observed", scope="line")
def nesting_too_deep(line: Line) -> Iterator[Violation]:
    """Objects and arrays are nested more than 64 levels deep.

    Why: Parsers stop or crash at a depth that differs between them.
    Fix: Flatten the record; a chat record needs about ten levels.
    Source: json, orjson, msgspec measured, 2026-11-24.
    """
    if line.depth > MAX_DEPTH:
        yield Violation("", f"The record is nested {line.depth:,} levels deep.")


@rule("FT108", "mixed-formats", "error", "R", "observed", when=NON_PLAIN)
def mixed_formats(row: DatasetRecord) -> Iterator[Violation]:
    """A record has a different format than the rest of the file.

    Why: A job has one method and reads one format; the service rejects a mixture.
    Fix: Put each format into its own file.
    Source: server message, public code.
    """
    shape, file_format = shape_of(row.record), row.file.format
    expected = "messages" if file_format in ("chat", "rft") else file_format
    if shape != expected and shape != "unknown" and expected != "unknown":
        name = legacy_shape(row.record) or {"messages": "chat", "dpo": "DPO"}.get(shape, shape)
        yield Violation("", f"This record is {name}; the file is {file_format}.")


@rule("FT109", "format-method-mismatch", "error", "R", "observed", scope="file")
def format_method_mismatch(stats: ScanStatistics) -> Iterator[Violation]:
    """The file's format does not match the requested method.

    Why: The job would fail after it is created: the detected format must be the format of the method.
    Fix: Choose the method that fits the file (--method), or convert the file.
    Source: public run log, 2024-12.
    """
    expected = FORMAT_OF.get(stats.file.method or "")
    if expected and stats.file.format not in (expected, "unknown", "legacy"):
        yield Violation(
            "", f"The file is {stats.file.format}; the method {stats.file.method} reads {expected}.", line=1
        )


@rule(
    "FT110",
    "unknown-top-level-key",
    "error",
    "R",
    "observed",
    when=NON_PLAIN,
    formats=frozenset({"chat", "dpo"}),
    fix=("unsafe", "move it to a separate file"),
    together="warning",
    fireworks="warning",
)
def unknown_top_level_key(row: DatasetRecord) -> Iterator[Violation]:
    """A record has a top-level key that its format does not define.

    Why: The service rejects unknown keys in supervised and preference files. In reinforcement files they are
        reference data. For Together and Fireworks ftpipe leaves them out of what it uploads, unless they may change
        what is learnt.
    Fix: Remove the key, or move its data to a separate file.
    Source: public run logs, code invalid_file_format; OpenAI API description of 2025-05-20; Together's data preparation
        page, 2026-08.
    """
    if row.kind == "chat" and "messages" not in row.record:
        return
    known = chat_keys(row.file.target) if row.kind == "chat" else frozenset(DPO_KEYS)
    if "weight" in known and "weight" in row.record:
        yield from _row_weight(row.record["weight"])
    is_projected = row.file.target in HOST_KEYS
    extra = [key for key in row.record if key not in known]
    for key in extra[:MAX_LISTED_KEYS]:
        is_removed = is_projected and not _may_change_training(key)
        yield Violation(
            key_path("", key),
            f"Unknown key '{escape_preview(key, 40)}'{', which is removed before the upload' if is_removed else ''}.",
            hint=_unknown_key_hint(key, known),
            level="error" if is_projected and not is_removed else None,
        )
    if len(extra) > MAX_LISTED_KEYS:
        more = len(extra) - MAX_LISTED_KEYS
        yield Violation("", f"The record has {more:,} more unknown keys.", weight=more)


def _row_weight(weight: Json) -> Iterator[Violation]:
    """The fault of a weight of the whole example, which Together multiplies its loss by."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        message = f"The weight of the example is {describe_value(weight)}; it must be a number of 0 or more."
        yield Violation("weight", message, level="error")


def _may_change_training(key: str) -> bool:
    name = normalize_key(key)
    return name in MEANINGFUL_KEYS or name in VERDICT_KEYS


def _unknown_key_hint(key: str, known: frozenset[str]) -> str:
    if _may_change_training(key):
        return "It may change what is learnt: `ftpipe convert FILE` keeps its meaning, or names it."
    return did_you_mean_or_remove(key, known)


@rule("FT111", "legacy-format", "error", "D", "documented", scope="file", formats=frozenset({"legacy"}))
def legacy_format(stats: ScanStatistics) -> Iterator[Violation]:
    """The file is in another format, such as prompt/completion, Alpaca, ShareGPT or chosen/rejected.

    Why: Jobs read messages, or preference pairs of messages; the models that accepted prompt/completion pairs are no
        longer available.
    Fix: Convert it: ``ftpipe convert FILE``.
    Source: OpenAI deprecations page (babbage-002, davinci-002: training closed 2024-10-28).
    """
    name = f"the {stats.file.legacy_shape} format" if stats.file.legacy_shape else "another format"
    hint = KTO_HINT if stats.file.legacy_shape == "KTO" else ""
    yield Violation("", f"All records are in {name}.", line=1, hint=hint)


@rule("FT112", "too-few-examples", "error", "R", "observed", scope="file")
def too_few_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has fewer examples than the target's minimum.

    Why: The job would fail with the error invalid_n_examples.
    Fix: Add examples; about 50 are a good start.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15; several public fixtures.
    """
    minimum = MIN_EXAMPLES.get(stats.file.target, 1)
    if 0 < stats.examples < minimum and stats.file.role == "train" and stats.file.layout == "lines":
        yield Violation("", f"The file has {stats.examples} example(s); {stats.file.target} needs at least {minimum}.")


@rule("FT113", "few-examples", "info", "D", "documented", scope="file")
def few_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has fewer than 50 examples.

    Why: Improvements usually become visible with 50 to 100 good examples.
    Fix: Add examples of the cases in which the model still fails.
    Source: OpenAI supervised fine-tuning guide, 2026-07-15.
    """
    if MIN_EXAMPLES.get(stats.file.target, 1) <= stats.examples < FEW_EXAMPLES and stats.file.role == "train":
        yield Violation("", f"The file has {stats.examples} examples; {FEW_EXAMPLES} or more are recommended.")


@rule("FT114", "too-many-examples", "error", "D", "documented", scope="file")
def too_many_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has more examples than the target accepts.

    Why: The job would be rejected.
    Fix: Remove examples, or split the training into two jobs.
    Source: Fireworks' supervised guide (3,000,000) and Bedrock's guide for reinforcement of open-weight models
        (20,000), 2026-08; OpenAI documents no limit for supervised files.
    """
    maximum = MAX_EXAMPLES.get(stats.file.target)
    if maximum and stats.examples > maximum and stats.file.role == "train":
        yield Violation(
            "", f"The file has {stats.examples:,} examples; {stats.file.target} accepts at most {maximum:,}."
        )
