"""What is usual in a file: figures over all records that tell which records are unusual, in bounded memory."""

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
    "rows", "with_tools", "with_calls", "pairs", "preferred_longer", "answers", "short", "changes", "json_answers",
    "with_system", "without",
)  # fmt: skip
MAX_LINES = 1_000
LABEL_CHARACTERS = 40
PROMPT_CHARACTERS = 2_000


@dataclass(slots=True)
class DatasetStatistics:
    """Figures over all records of a file, or of a part of it."""

    rows: int = 0
    with_tools: int = 0
    with_calls: int = 0
    pairs: int = 0
    """DPO records with two texts."""
    preferred_longer: int = 0
    answers: int = 0
    """Chat records that end with a text of the assistant."""
    labels: Counter[str] = field(default_factory=Counter)
    """Short last answers → number."""
    short: int = 0
    """Last answers that are short."""
    changes: int = 0
    """How often one short answer is followed by another one."""
    last_label: str = ""
    first_label: str = ""
    json_answers: int = 0
    other_answers: list[int] = field(default_factory=list)
    """Lines of the first answers that are no JSON."""
    with_system: int = 0
    without: int = 0
    """Chat records without a system message."""
    without_system: list[int] = field(default_factory=list)
    systems: Counter[str] = field(default_factory=Counter)
    """System prompts, cut → number."""
    schemas: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Tool name → canonical definition and the first line that has it."""
    drift: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tool name → line with another definition, and the line of the first one."""

    def add(self, row: DatasetRecord) -> None:
        """Count one record."""
        self.rows += 1
        line = row.line.number
        if row.tools:
            self.with_tools += 1
            self._add_tools(row.tools, line)
        if row.calls:
            self.with_calls += 1
        if row.kind == "dpo":
            self._add_pair(row)
        elif row.kind == "chat":
            self._add_chat(row, line)

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

    def _add_pair(self, row: DatasetRecord) -> None:
        lengths = {text.base: len(text.value) for text in row.texts if not text.base.endswith("messages")}
        if len(lengths) == 2:
            self.pairs += 1
            self.preferred_longer += lengths.get("preferred_output", 0) > lengths.get("non_preferred_output", 0)

    def add_plain(self, messages: list[dict[str, str]], line: int) -> None:
        """Count one record of plain messages, the last one an answer."""
        self.rows += 1
        first = messages[0]
        self._add_system(first["content"] if first["role"] == "system" else None, line)
        self._add_answer(messages[-1]["content"].strip(), line)

    def _add_chat(self, row: DatasetRecord, line: int) -> None:
        texts = row.texts
        self._add_system(texts[0].value if texts and texts[0].role in ("system", "developer") else None, line)
        if texts and texts[-1].role == "assistant":
            self._add_answer(texts[-1].value.strip(), line)

    def _add_system(self, prompt: str | None, line: int) -> None:
        if prompt is not None:
            self.with_system += 1
            if len(self.systems) < MAX_NAMES or prompt in self.systems:
                self.systems[prompt[:PROMPT_CHARACTERS]] += 1
            return
        self.without += 1
        if len(self.without_system) < MAX_LINES:
            self.without_system.append(line)

    def _add_answer(self, answer: str, line: int) -> None:
        self.answers += 1
        if is_json_object(answer):
            self.json_answers += 1
        elif len(self.other_answers) < MAX_LINES:
            self.other_answers.append(line)
        if len(answer) <= LABEL_CHARACTERS and "\n" not in answer:
            self.short += 1
            if len(self.labels) < MAX_NAMES or answer in self.labels:
                self.labels[answer] += 1
            self.changes += bool(self.last_label) and answer != self.last_label
            self.first_label = self.first_label or answer
            self.last_label = answer

    def merge(self, other: DatasetStatistics, first_line: int) -> None:
        """Add a later part of the file whose lines begin behind ``first_line``."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.changes += bool(self.last_label and other.first_label) and self.last_label != other.first_label
        self.first_label = self.first_label or other.first_label
        self.last_label = other.last_label or self.last_label
        for mine, theirs in ((self.labels, other.labels), (self.systems, other.systems)):
            mine.update({key: n for key, n in theirs.items() if key in mine or len(mine) < MAX_NAMES})
        self.other_answers += [n + first_line for n in other.other_answers[: MAX_LINES - len(self.other_answers)]]
        self.without_system += [n + first_line for n in other.without_system[: MAX_LINES - len(self.without_system)]]
        for name, (line, first) in other.drift.items():
            self.drift.setdefault(name, (line + first_line, first + first_line))
        for name, (definition, line) in other.schemas.items():
            self._register_schema(name, definition, line + first_line)

    @property
    def are_labels(self) -> bool:
        """True where the answers are a small set of short words."""
        return self.answers >= 20 and self.short == self.answers and 1 < len(self.labels) <= self.answers / 4


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
    """A record that is longer than the target reads."""

    tokens: int
    limit: int
    last_role: str
    last_path: str


@dataclass(slots=True)
class TokenHistogram:
    """Token counts of the records of a file."""

    totals: Counter[int] = field(default_factory=Counter)
    """Tokens of a record → number of such records."""
    answers: Counter[int] = field(default_factory=Counter)
    """Trained tokens of a record → number of such records."""
    turns: Counter[int] = field(default_factory=Counter)
    """Messages of a record → number of such records."""
    longest: list[tuple[int, int]] = field(default_factory=list)
    """The longest records as (tokens, -line), a heap."""
    images: int = 0
    fresh: array[int] = field(default_factory=lambda: array("Q"))
    """Tokens and trained tokens of records that ``totals`` and ``answers`` do not have yet."""

    def add(self, tokens: int, trained: int, turns: int, line: int) -> None:
        """Count one record; the figures have it once this was merged into those of the whole file."""
        self.fresh.extend((tokens, trained))
        self.turns[turns] += 1
        item = (tokens, -line)
        if len(self.longest) < KEEP_LONGEST:
            heapq.heappush(self.longest, item)
        elif item > self.longest[0]:
            heapq.heapreplace(self.longest, item)

    def merge(self, other: TokenHistogram, first_line: int) -> None:
        """Add another part of the file whose line numbers begin behind ``first_line``."""
        for mine, theirs, at in ((self.totals, other.totals, 0), (self.answers, other.answers, 1)):
            mine.update(theirs)
            mine.update(other.fresh[at::2])
        self.turns.update(other.turns)
        self.images += other.images
        moved = [(tokens, line - first_line) for tokens, line in other.longest]
        self.longest = heapq.nlargest(KEEP_LONGEST, [*self.longest, *moved])
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
        return sum(tokens * n for tokens, n in self.answers.items())

    def billable(self, limit: int | None) -> int:
        """All tokens, each record cut at the limit."""
        return sum((tokens if limit is None else min(tokens, limit)) * n for tokens, n in self.totals.items())

    def over(self, limit: int | None) -> int:
        """Records longer than the limit."""
        return 0 if limit is None else sum(n for tokens, n in self.totals.items() if tokens > limit)

    def percentile(self, share: float) -> int:
        """The smallest count that at least ``share`` (0 to 1) of the records do not exceed (nearest rank)."""
        wanted = max(1, -int(-share * self.examples // 1))
        seen = 0
        for tokens in sorted(self.totals):
            seen += self.totals[tokens]
            if seen >= wanted:
                return tokens
        return 0

    def longest_first(self) -> list[tuple[int, int]]:
        """The longest records as (tokens, line), the longest first, earlier lines first among equals."""
        return [(tokens, -line) for tokens, line in sorted(self.longest, reverse=True)]

    def outlier_bound(self) -> tuple[int, str]:
        """Above how many tokens a record stands out, and the rule's words.

        In fewer than 100 records the 99th percentile is the longest record itself, so the median decides there.
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
