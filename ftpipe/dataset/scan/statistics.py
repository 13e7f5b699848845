"""Figures over all records of a file, in bounded memory: what is usual in it, and which records are not."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.duplicates.exact import LineSample
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord

MAX_NAMES = 2_000
_SUMS = (
    "records", "with_tools", "with_calls", "preference_pairs", "preferred_longer", "answers", "short_answers",
    "label_changes", "json_answers", "with_system", "without_system",
)  # fmt: skip
MAX_LINES = 1_000
LABEL_CHARACTERS = 40
PROMPT_CHARACTERS = 2_000


@dataclass(slots=True)
class DatasetStatistics:
    """Figures about the content of the records of a file, or of a part of it."""

    records: int = 0
    with_tools: int = 0
    with_calls: int = 0
    preference_pairs: int = 0
    """DPO records with two texts."""
    preferred_longer: int = 0
    answers: int = 0
    """Chat records that end with a text of the assistant."""
    labels: Counter[str] = field(default_factory=Counter)
    """Short last answers → number."""
    short_answers: int = 0
    """Last answers that are short."""
    label_changes: int = 0
    """How often a short answer is followed by a different one."""
    last_label: str = ""
    first_label: str = ""
    json_answers: int = 0
    lines_without_json: list[int] = field(default_factory=list)
    """Lines of the first answers that are not JSON."""
    with_system: int = 0
    without_system: int = 0
    """Chat records without a system message."""
    lines_without_system: list[int] = field(default_factory=list)
    systems: Counter[str] = field(default_factory=Counter)
    """System prompts, cut → number."""
    schemas: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Tool name → canonical definition and the first line that has it."""
    drift: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tool name → line with another definition, and the line of the first one."""

    def add(self, record: DatasetRecord) -> None:
        """Count one record."""
        self.records += 1
        line = record.line.number
        if record.tools:
            self.with_tools += 1
            self._add_tools(record.tools, line)
        if record.calls:
            self.with_calls += 1
        if record.kind == "dpo":
            self._add_pair(record)
        elif record.kind == "chat":
            self._add_chat(record, line)

    def _add_tools(self, tools: Json, line: int) -> None:
        for tool in tools if type(tools) is list else ():
            function = tool.get("function") if type(tool) is dict else None
            name = function.get("name") if type(function) is dict else None
            if type(name) is str and len(self.schemas) < MAX_NAMES:
                self._register_schema(name, canonical_json(function), line)

    def _register_schema(self, name: str, definition: bytes, line: int) -> None:
        known = self.schemas.setdefault(name, (definition, line))
        if known[0] != definition:
            self.drift.setdefault(name, (line, known[1]))

    def _add_pair(self, record: DatasetRecord) -> None:
        lengths = {text.list_path: len(text.value) for text in record.texts if not text.list_path.endswith("messages")}
        if len(lengths) == 2:
            self.preference_pairs += 1
            self.preferred_longer += lengths.get("preferred_output", 0) > lengths.get("non_preferred_output", 0)

    def add_plain(self, messages: list[dict[str, str]], line: int) -> None:
        """Count one record of plain messages, the last one an answer."""
        self.records += 1
        first = messages[0]
        self._add_system(first["content"] if first["role"] == "system" else None, line)
        self._add_answer(messages[-1]["content"].strip(), line)

    def _add_chat(self, record: DatasetRecord, line: int) -> None:
        texts = record.texts
        self._add_system(texts[0].value if texts and texts[0].role in ("system", "developer") else None, line)
        if texts and texts[-1].role == "assistant":
            self._add_answer(texts[-1].value.strip(), line)

    def _add_system(self, prompt: str | None, line: int) -> None:
        if prompt is not None:
            self.with_system += 1
            if len(self.systems) < MAX_NAMES or prompt in self.systems:
                self.systems[prompt[:PROMPT_CHARACTERS]] += 1
            return
        self.without_system += 1
        if len(self.lines_without_system) < MAX_LINES:
            self.lines_without_system.append(line)

    def _add_answer(self, answer: str, line: int) -> None:
        self.answers += 1
        if is_json_object(answer):
            self.json_answers += 1
        elif len(self.lines_without_json) < MAX_LINES:
            self.lines_without_json.append(line)
        if len(answer) <= LABEL_CHARACTERS and "\n" not in answer:
            self.short_answers += 1
            if len(self.labels) < MAX_NAMES or answer in self.labels:
                self.labels[answer] += 1
            self.label_changes += bool(self.last_label) and answer != self.last_label
            self.first_label = self.first_label or answer
            self.last_label = answer

    def merge(self, other: DatasetStatistics, first_line: int) -> None:
        """Add a later part of the file, which begins after line ``first_line``."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.label_changes += bool(self.last_label and other.first_label) and self.last_label != other.first_label
        self.first_label = self.first_label or other.first_label
        self.last_label = other.last_label or self.last_label
        for own, others in ((self.labels, other.labels), (self.systems, other.systems)):
            own.update({key: n for key, n in others.items() if key in own or len(own) < MAX_NAMES})
        self.lines_without_json += [
            n + first_line for n in other.lines_without_json[: MAX_LINES - len(self.lines_without_json)]
        ]
        self.lines_without_system += [
            n + first_line for n in other.lines_without_system[: MAX_LINES - len(self.lines_without_system)]
        ]
        for name, (line, first) in other.drift.items():
            self.drift.setdefault(name, (line + first_line, first + first_line))
        for name, (definition, line) in other.schemas.items():
            self._register_schema(name, definition, line + first_line)

    @property
    def are_labels(self) -> bool:
        """True if the answers are a small set of short texts."""
        return self.answers >= 20 and self.short_answers == self.answers and 1 < len(self.labels) <= self.answers / 4


def is_json_object(text: str) -> bool:
    """True for a JSON object or array."""
    if text[:1] not in ("{", "[") or text[-1:] not in ("}", "]"):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


KEEP_LONGEST = 50
FEW_RECORDS = 100


class OverlongRecord(NamedTuple):
    """A record with more tokens than the target trains on."""

    tokens: int
    limit: int
    last_path: str
    cuts_answer: bool
    """Whether a part of an answer is beyond the limit."""
    is_local: bool = False
    """Whether the local trainer's own tokenizer counted."""
    is_dropped: bool = False
    """Whether the target leaves such a record out instead of cutting it."""


@dataclass(slots=True)
class TokenHistogram:
    """Token counts of the records of a file."""

    totals: Counter[int] = field(default_factory=Counter)
    """Tokens of a record → number of such records."""
    trained_totals: Counter[int] = field(default_factory=Counter)
    """Trained tokens of a record → number of such records."""
    turns: Counter[int] = field(default_factory=Counter)
    """Messages of a record → number of such records."""
    longest: list[tuple[int, int]] = field(default_factory=list)
    """The longest records as (tokens, -line), a heap."""
    images: int = 0
    lower_bounds: int = 0
    """Records that may have more tokens than were counted."""
    pending: array[int] = field(default_factory=lambda: array("Q"))
    """Tokens and trained tokens of records that are not in ``totals`` and ``trained_totals`` yet."""

    def add(self, tokens: int, trained: int, turns: int, line: int) -> None:
        """Count one record; ``totals`` includes it once this histogram is merged into that of the whole file."""
        self.pending.extend((tokens, trained))
        self.turns[turns] += 1
        item = (tokens, -line)
        if len(self.longest) < KEEP_LONGEST:
            heapq.heappush(self.longest, item)
        elif item > self.longest[0]:
            heapq.heapreplace(self.longest, item)

    def merge(self, other: TokenHistogram, first_line: int) -> None:
        """Add another part of the file, which begins after line ``first_line``."""
        for own, others, index in (
            (self.totals, other.totals, 0),
            (self.trained_totals, other.trained_totals, 1),
        ):
            own.update(others)
            own.update(other.pending[index::2])
        self.turns.update(other.turns)
        self.images += other.images
        self.lower_bounds += other.lower_bounds
        shifted = [(tokens, line - first_line) for tokens, line in other.longest]
        self.longest = heapq.nlargest(KEEP_LONGEST, [*self.longest, *shifted])
        heapq.heapify(self.longest)

    @property
    def examples(self) -> int:
        """Records counted."""
        return self.totals.total()

    @property
    def total(self) -> int:
        """All tokens."""
        return sum(tokens * n for tokens, n in self.totals.items())

    @property
    def trained(self) -> int:
        """All trained tokens."""
        return sum(tokens * n for tokens, n in self.trained_totals.items())

    def billable(self, limit: int | None) -> int:
        """All tokens, each record cut at the limit."""
        return sum((tokens if limit is None else min(tokens, limit)) * n for tokens, n in self.totals.items())

    def over(self, limit: int | None) -> int:
        """Records longer than the limit."""
        return 0 if limit is None else sum(n for tokens, n in self.totals.items() if tokens > limit)

    def percentile(self, share: float) -> int:
        """The smallest count that at least ``share`` (0 to 1) of the records do not exceed (nearest rank)."""
        rank = max(1, -int(-share * self.examples // 1))
        counted = 0
        for tokens in sorted(self.totals):
            counted += self.totals[tokens]
            if counted >= rank:
                return tokens
        return 0

    def longest_first(self) -> list[tuple[int, int]]:
        """The longest records as (tokens, line), the longest first, earlier lines first among equals."""
        return [(tokens, -line) for tokens, line in sorted(self.longest, reverse=True)]

    def outlier_bound(self) -> tuple[int, str]:
        """Number of tokens above which a record is an outlier, and how it was computed.

        With fewer than 100 records the 99th percentile is the longest record itself, so the median is used.
        """
        if self.examples < 4:
            return 0, ""
        if self.examples >= FEW_RECORDS:
            return self.percentile(0.99) * 3, "three times the 99th percentile"
        return self.percentile(0.5) * 10, "ten times the median"


@dataclass(slots=True)
class ScanStatistics:
    """What was learnt from the records of a file; rules about the whole file read it."""

    file: FileContext
    examples: int = 0
    """Lines that are not blank."""
    shapes: Counter[str] = field(default_factory=Counter)
    """Shape → records of it."""
    with_images: int = 0
    """Records with images."""
    tokens: TokenHistogram = field(default_factory=TokenHistogram)
    content: DatasetStatistics = field(default_factory=DatasetStatistics)
    is_unterminated: bool = False
    """The last line has no newline."""
    has_changed: bool = False
    """The file changed while it was read."""
    duplicates: LineSample = field(default_factory=LineSample)
    conflicts: LineSample = field(default_factory=LineSample)
    """Records with the prompt of an earlier one and another answer."""
    swapped: LineSample = field(default_factory=LineSample)
    """Preference pairs that are an earlier one with preferred and other answer exchanged."""
    near_duplicates: list[tuple[int, int, float]] = field(default_factory=list)
    """(line, earlier line, similarity from 0 to 1)."""
    not_checked: tuple[str, ...] = ()
    """Checks that were left out, each with the command that installs the missing package."""

    train_examples: int = 0
    """Examples of the training file, if this is the validation file."""
    overlap: list[tuple[int, int, str]] = field(default_factory=list)
    """(line, line in the training file, ``record`` or ``prompt``) of what both files have."""
    near_overlap: list[tuple[int, int, float]] = field(default_factory=list)
    """(line, line in the training file, similarity from 0 to 1)."""
    leaks: list[tuple[int, int, str]] = field(default_factory=list)
    """(line in the test file, line, ``record`` or ``prompt``) of what the training file and the test file have."""
