"""What is usual in a file: figures over all records that tell which records are unusual, in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.jsonvalue import Json

if TYPE_CHECKING:
    from ftpipe.dataset.rows import DatasetRecord

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
