"""Scans one block of lines: parses them, runs the rules that each can break, counts the tokens of all together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import accumulate, repeat
from threading import Thread
from typing import Any, NamedTuple

import orjson

from ftpipe.dataset.duplicate_keys import count_keys, lines_with_possible_duplicate_keys
from ftpipe.dataset.duplicates.fingerprint_store import put
from ftpipe.dataset.duplicates.fingerprints import fingerprint_dialogue, fingerprint_record
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.formats import shape_of
from ftpipe.dataset.json_line import MAX_DEPTH, Line
from ftpipe.dataset.reader import BOM, Block
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import (
    ALL_MARKS,
    ANSWER_TRAITS,
    DISPUTED_CHARACTERS,
    UNUSUAL_KEYS,
    plain_dialogue_traits,
)
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.rules.base import Rule
from ftpipe.dataset.scan import prefilter
from ftpipe.dataset.scan.byte_search import Marks, find_marks
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.scan.prefilter import pop_auxiliary_marks
from ftpipe.dataset.scan.statistics import OverlongRecord
from ftpipe.dataset.scan.token_count import RecordTokenCounter, TokenCountRequest, collect_countable_texts
from ftpipe.tokenization import DEFAULT_ENCODING, EngineName, open_counter

PRETTY_LINES, MAX_FAILED_SEARCHES = 500, 20
"""Lines looked through for the end of a record, and how often in vain before a block is taken for broken lines."""
UNPARSABLE = object()
"""Stands for a line that the strict parser does not take."""
_LONG_NUMBER = re.compile(rb"[:\[,]\s*-?[\d.]{15}|\d[eE]")


class PlainRecord(NamedTuple):
    """A dialogue of plain messages in the usual order."""

    line: int
    messages: list[dict[str, str]]


class OtherRecord(NamedTuple):
    """Any other record with messages."""

    row: DatasetRecord
    bill: TokenCountRequest


class BlockScanner:
    """The scan of one block."""

    def __init__(self, scanner: Scanner, block: Block, part: PartialScan) -> None:
        self.scanner, self.block, self.part = scanner, block, part
        self.raws = block.data.split(b"\n")
        if not self.raws[-1]:
            self.raws.pop()
        if self.raws and not block.offset and self.raws[0].startswith(BOM):
            self.raws[0] = self.raws[0][len(BOM) :]
        self.starts = starts_of(self.raws)
        self.marks = scanner.find_marks(block.data, self.starts)
        self.signs = pop_auxiliary_marks(self.marks) if scanner.has_prefilter else None
        self.parsed = parse_all(self.raws, scanner.plan.settings.max_line_bytes)
        self.turns = self._turns() if scanner.file.format == "chat" else []
        self.suspects = self._suspects()
        self.has_returns = b"\r" in block.data
        self.failed_searches = 0
        """Searches for the end of a record spread over lines that found none."""
        self.kept: list[PlainRecord | OtherRecord] = []
        """Records whose tokens are to be counted."""

    def _turns(self) -> list[int | None]:
        """The marks of each line that is a dialogue of plain messages."""
        if self.signs is None:
            return [plain_dialogue_traits(record) for record in self.parsed]
        signs_of = self.signs.get
        return [plain_dialogue_traits(record, signs_of(index, ())) for index, record in enumerate(self.parsed)]

    def _suspects(self) -> set[int]:
        """Indices of the lines in which an object may hold a key twice, which the parser passes over."""
        keys = [
            count_keys(record) if marks is None else 1 + 2 * len(record["messages"])
            for record, marks in zip(self.parsed, self.turns or repeat(None), strict=False)
        ]
        parsed = [index for index, record in enumerate(self.parsed) if record is not UNPARSABLE]
        odd = None if self.signs is None else {index for index, signs in self.signs.items() if UNUSUAL_KEYS in signs}
        return lines_with_possible_duplicate_keys(self.block.data, self.raws, keys, parsed, odd)

    def run(self) -> PartialScan:
        """Scan every line, then count the tokens of all records together."""
        self.run_rules()
        part = self.part
        part.lines = len(self.raws)
        part.unterminated = self.block.ends_file
        self._count()
        return part

    def run_rules(self) -> None:
        """Run the rules on every line."""
        index = 0
        while index < len(self.raws):
            index = self._line(index)

    def _line(self, index: int) -> int:
        """Scan one line; returns the index of the next one."""
        record = self.parsed[index]
        marks = self.turns[index] if self.turns else None
        if marks is not None:
            self._plain(index, record, marks)
            return index + 1
        line = self._line_at(index)
        if len(line.raw) > self.scanner.plan.settings.max_line_bytes:
            self._too_long(line)
            return index + 1
        if record is UNPARSABLE:
            return self._bad_line(line, index)
        self.part.examples += 1
        self._hidden_faults(line)
        if type(record) is dict:
            self._record(line, record)
        else:
            self._run_line_rules(line, ("FT102",))
        return index + 1

    def _line_at(self, index: int) -> Line:
        line = Line(index + 1, self.block.offset + self.starts[index], self.raws[index])
        line.record = self.parsed[index]
        line.parsed = line.record is not UNPARSABLE
        if not line.parsed:
            line.record = None
        return line

    def _hidden_faults(self, line: Line) -> None:
        """Look for what the strict parser passes over."""
        marks, codes = self.marks.get(line.number - 1, ()), []
        if self.has_returns and b"\r" in line.raw:
            codes.append("FT006")
        if ALL_MARKS in marks:
            codes.append("FT008")
        if "separator" in marks:
            codes.append("FT012")
        if line.number - 1 in self.suspects:
            codes.append("FT104")
        if codes:
            self._run_line_rules(line, tuple(codes))

    def _plain(self, index: int, record: dict[str, Any], traits: int) -> None:
        """Take a dialogue of plain messages in the usual order: most of them break no rule."""
        part, scanner = self.part, self.scanner
        part.examples += 1
        part.shapes["messages"] += 1
        marks = self.marks.get(index, ())
        if marks or self.has_returns or index in self.suspects:
            self._hidden_faults(self._line_at(index))
        rules = scanner.rules_for("chat", traits, marks) if marks else scanner.unmarked_rules(traits)
        if rules:
            row = self._row_of(index + 1)
            row.marks = marks
            for rule in rules:
                part.tally.add(rule, rule.check(row), index + 1, record)
        if DISPUTED_CHARACTERS in marks:
            row = self._row_of(index + 1)
            self.kept.append(OtherRecord(row, collect_countable_texts(row, scanner.file.model)))
        else:
            self.kept.append(PlainRecord(index + 1, record["messages"]))

    def _too_long(self, line: Line) -> None:
        self.part.examples += 1
        sized = Line(line.number, line.offset, len(line.raw).to_bytes(8, "big"))
        sized.record = "too-long"
        self._run_line_rules(sized, ("FT010",))

    def _run_line_rules(self, line: Line, codes: tuple[str, ...] | None = None) -> None:
        known = self.scanner.line_rules
        for rule in known.values() if codes is None else [known[code] for code in codes if code in known]:
            self.part.tally.add(rule, rule.check(line), line.number, line.record)

    def _bad_line(self, line: Line, index: int) -> int:
        """Name everything that is wrong with a line that the strict parser refuses."""
        if not line.raw.strip():
            self._run_line_rules(line, ("FT007",))
            return index + 1
        self.part.examples += 1
        last = self._pretty_printed_end(index)
        if last:
            spread = Line(index + 1, last - index + 1, b"")
            spread.record = "pretty"
            self._run_line_rules(spread, ("FT103",))
            return last + 1
        self._run_line_rules(line)
        if line.text is not None and line.depth <= MAX_DEPTH:
            seen = line.details
            if seen.ok and type(seen.value) is dict and not seen.surrogates:
                self._record(line, seen.value, checked=True)
        return index + 1

    def _pretty_printed_end(self, index: int) -> int:
        """Index of the line that ends a record spread over lines; 0 where this is none."""
        opens = self.raws[index].strip()[-1:] in (b"{", b"[", b",") and self.raws[index].lstrip()[:1] == b"{"
        if not opens or self.failed_searches >= MAX_FAILED_SEARCHES:
            return 0
        for last in range(index + 1, min(len(self.raws), index + PRETTY_LINES)):
            if self.raws[last].rstrip() == b"}" or self.raws[last].rstrip().endswith(b"]}"):
                try:
                    return last if type(orjson.loads(b"\n".join(self.raws[index : last + 1]))) is dict else 0
                except orjson.JSONDecodeError:
                    continue
        self.failed_searches += 1
        return 0

    def _record(self, line: Line, record: dict[str, Any], *, checked: bool = False) -> None:
        """Run the row rules on a record and keep it for counting.

        Args:
            line: Its line.
            record: The parsed object.
            checked: True where the line rules have run on the line already.
        """
        part, file = self.part, self.scanner.file
        shape = shape_of(record)
        part.shapes[shape] += 1
        kind = shape if shape != "messages" else ("rft" if file.format == "rft" else "chat")
        row = DatasetRecord(line, record, kind, file)
        if not checked and not self._numbers_and_depth(line, row):
            return
        marks = row.marks = self.marks.get(line.number - 1, ())
        for rule in self.scanner.rules_for(kind, row.traits, marks):
            part.tally.add(rule, rule.check(row), line.number, record)
        if row.lists:
            self.kept.append(OtherRecord(row, collect_countable_texts(row, file.model)))

    def _numbers_and_depth(self, line: Line, row: DatasetRecord) -> bool:
        """Look for numbers that do not fit; False where the record nests too deep for the other rules."""
        raw = line.raw
        if not row.traits & ~ANSWER_TRAITS and len(row.lists) == 1 and len(line.record) == 1:
            return True
        if _LONG_NUMBER.search(raw):
            self._run_line_rules(line, ("FT105",))
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and line.depth > MAX_DEPTH:
            self._run_line_rules(line, ("FT107",))
            return False
        return True

    def _count(self) -> None:
        """Count the tokens of all records of the block, and take their fingerprints."""
        part, counter, limit = self.part, self.scanner.counter, self.scanner.file.token_limit
        dialogues = [item.messages for item in self.kept if isinstance(item, PlainRecord)]
        plain = counter.count_plain(dialogues, undisputed=self.scanner.has_prefilter)
        others = counter.count([(item.bill, item.row.tools) for item in self.kept if isinstance(item, OtherRecord)])
        for item in self.kept:
            if isinstance(item, PlainRecord):
                total, trained = next(plain)
                number, messages = item
                turns = len(messages)
                part.content.add_plain(messages, number)
                put(part.prints, number, *fingerprint_dialogue(messages))
            else:
                total, trained = next(others)
                number, turns = self._add_statistics(item.row, item.bill)
            part.tokens.add(total, trained, turns, number)
            if limit is not None and total > limit:
                self._long(self._row_of(number) if isinstance(item, PlainRecord) else item.row, total, limit)

    def _add_statistics(self, row: DatasetRecord, bill: TokenCountRequest) -> tuple[int, int]:
        """Enter what is usual and the fingerprints; returns the row's line and the number of its messages."""
        part, number = self.part, row.line.number
        part.tokens.images += bill.images
        part.with_images += bool(bill.images)
        part.content.add(row)
        put(part.prints, number, *fingerprint_record(row))
        return number, sum(len(messages) for _, messages in row.lists if type(messages) is list)

    def _row_of(self, number: int) -> DatasetRecord:
        """The row of a plain dialogue."""
        return DatasetRecord.of_dialogue(self._line_at(number - 1), self.scanner.file, self.turns[number - 1] or 0)

    def _long(self, row: DatasetRecord, total: int, limit: int) -> None:
        base, messages = row.lists[-1]
        last = messages[-1] if type(messages) is list and messages else {}
        role = last.get("role", "") if type(last) is dict else ""
        long = OverlongRecord(total, limit, role, f"{base}[{len(messages) - 1}].content" if messages else base)
        for rule in self.scanner.long_rules:
            if row.kind in rule.formats:
                self.part.tally.add(rule, rule.check(long), row.line.number, row.record)


def starts_of(raws: list[bytes]) -> list[int]:
    """Offset of each line in its block."""
    return [at + index for index, at in enumerate(accumulate(map(len, raws[:-1]), initial=0))]


def parse_all(raws: list[bytes], max_line_bytes: int) -> list[Any]:
    """The value of each line; ``UNPARSABLE`` if the strict parser refuses it or the line is too long."""
    loads, parsed = orjson.loads, []
    for raw in raws:
        try:
            parsed.append(loads(raw) if len(raw) <= max_line_bytes else UNPARSABLE)
        except orjson.JSONDecodeError:
            parsed.append(UNPARSABLE)
    return parsed


PREFILTER_BYTES = 2_000_000
"""Below this size the patterns of the prefilter cost more than they save."""


def preload(encoding: str = DEFAULT_ENCODING) -> None:
    """Build what scanning a large file mostly needs, before the plan is known; the scanner finds it built.

    Args:
        encoding: Which tokens will be counted.
    """
    all_rules()
    # Compiling patterns and building a tokenizer keep two cores busy.
    beside = Thread(target=prefilter.compiled) if prefilter.is_available() else None
    if beside:
        beside.start()
    open_counter(encoding, size=PREFILTER_BYTES).count(["ready"])
    if beside:
        beside.join()


class Scanner:
    """Scans blocks of lines under one plan; made once per process."""

    def __init__(self, plan: ScanPlan) -> None:
        self.plan = plan
        self.file = FileContext(
            plan.name, plan.target, plan.method, plan.model, plan.format, role=plan.role, today=plan.today,
            settings=plan.settings, token_limit=plan.token_limit, has_bom=plan.has_bom,
            grader_fields=plan.grader_fields,
        )  # fmt: skip
        active = [r for r in all_rules() if plan.settings.wants(r.code) and not self._is_off(r)]
        self.line_rules = {rule.code: rule for rule in active if rule.scope == "line"}
        self.row_rules = {
            kind: [rule for rule in active if rule.scope == "row" and kind in rule.formats]
            for kind in ("chat", "dpo", "rft", "legacy", "unknown")
        }
        self.long_rules = [rule for rule in active if rule.scope == "long"]
        self._rules: dict[tuple[str, int, tuple[str, ...]], list[Rule]] = {}
        self._unmarked: dict[int, list[Rule]] = {}
        self._counter: RecordTokenCounter | None = None
        self.has_prefilter = plan.size >= PREFILTER_BYTES and prefilter.is_available()
        """Hyperscan is installed, and the file large enough to be worth its patterns' compilation."""
        self.find_marks: Callable[[bytes, list[int]], Marks] = (
            prefilter.compiled().find if self.has_prefilter else find_marks
        )

    def _is_off(self, rule: Rule) -> bool:
        chosen = self.plan.settings.thresholds.get(rule.code)
        return rule.level_for(self.plan.target) == "off" and (chosen is None or chosen.level is None)

    def rules_for(self, kind: str, traits: int, marks: Collection[str]) -> list[Rule]:
        """The row rules that a record with these marks can break; records of one look share the list."""
        key = (kind, traits, tuple(sorted(marks)))
        known = self._rules.get(key)
        if known is None:
            known = self._rules[key] = [
                rule
                for rule in self.row_rules[kind]
                if (not rule.when or rule.when & traits)
                and (not rule.mark or ALL_MARKS in marks or any(mark in marks for mark in rule.mark.split()))
            ]
        return known

    def unmarked_rules(self, traits: int) -> list[Rule]:
        """The same for dialogues on whose line no prefilter found anything."""
        known = self._unmarked.get(traits)
        if known is None:
            known = self._unmarked[traits] = self.rules_for("chat", traits, ())
        return known

    @property
    def counter(self) -> RecordTokenCounter:
        """The token counter, built when the first record needs it."""
        if self._counter is None:
            engine: EngineName = self.plan.settings.engine  # type: ignore[assignment]  # checked where settings are read
            self._counter = RecordTokenCounter(
                open_counter(self.plan.encoding, size=self.plan.size, engine=engine), self.plan.encoding
            )
        return self._counter

    def build_counter(self) -> None:
        """Build now what is otherwise built when it is needed, so that forked workers share it."""
        self.counter.count_cached("ready")

    def scan(self, block: Block) -> PartialScan:
        """Learn everything from one block."""
        part = PartialScan.of(self.plan)
        if block.too_long:
            self._too_long(part, block.too_long)
            return part
        return BlockScanner(self, block, part).run()

    def run_rules(self, block: Block) -> PartialScan:
        """Run the rules on one block and leave its tokens uncounted."""
        part = PartialScan.of(self.plan)
        if not block.too_long:
            BlockScanner(self, block, part).run_rules()
        return part

    def _too_long(self, part: PartialScan, size: int) -> None:
        line = Line(1, 0, size.to_bytes(8, "big"))
        line.record = "too-long"
        part.lines = part.examples = 1
        if "FT010" in self.line_rules:
            part.tally.add(self.line_rules["FT010"], self.line_rules["FT010"].check(line), 1)
