"""Scans blocks of lines: parses each line, runs the rules that it can break, and counts the tokens of a block at once.

Most lines of a good dataset are dialogues of plain messages in the usual order. They take the *fast path*: their traits
are computed from the parsed JSON alone, only rules that fit those traits and the marks of the line run, and no
``DatasetRecord`` is made unless such a rule exists. Every other line takes the *slow path*: rules about lines, then a
``DatasetRecord`` and the rules about records. Both paths find the same (property tests in tests/dataset/scan).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import accumulate, repeat
from threading import Thread
from typing import Any, NamedTuple

import orjson

from ftpipe.catalog.host_bases import drops_long_examples
from ftpipe.dataset.duplicate_keys import count_keys, lines_with_possible_duplicate_keys
from ftpipe.dataset.duplicates import fingerprint_store
from ftpipe.dataset.duplicates.fingerprints import fingerprint_dialogue, fingerprint_record
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

MAX_PRETTY_LINES = 500
"""Lines that are searched for the end of a pretty-printed record."""
MAX_FAILED_SEARCHES = 20
"""Searches without a result, after which the lines of a block are taken for broken ones."""
MAX_TOKENS_PER_REFERENCE_TOKEN = 8
"""Tokens of a small model for one token of the encoding that counts; English has about 1.1, Thai about 6."""
UNPARSABLE = object()
"""Stands for a line that the strict parser rejects."""
_LONG_NUMBER = re.compile(rb"[:\[,]\s*-?[\d.]{15}|\d[eE]")


class PlainRecord(NamedTuple):
    """A record on the fast path, until its tokens are counted."""

    line: int
    messages: list[dict[str, str]]


class OtherRecord(NamedTuple):
    """A record on the slow path, until its tokens are counted."""

    record: DatasetRecord
    request: TokenCountRequest


class BlockScanner:
    """Scans one block."""

    def __init__(self, scanner: Scanner, block: Block, part: PartialScan) -> None:
        self.scanner, self.block, self.part = scanner, block, part
        self.raws = block.data.split(b"\n")
        if not self.raws[-1]:
            self.raws.pop()
        if self.raws and not block.offset and self.raws[0].startswith(BOM):
            self.raws[0] = self.raws[0][len(BOM) :]
        self.starts = line_offsets(self.raws)
        self.marks = scanner.find_marks(block.data, self.starts)
        self.auxiliary_marks = pop_auxiliary_marks(self.marks) if scanner.has_prefilter else None
        self.parsed = parse_all(self.raws, scanner.file.settings.max_line_bytes)
        self.traits = self._traits() if scanner.file.format == "chat" else []
        """For each line the traits of a plain dialogue, ``None`` for other records; empty in files of other formats."""
        self.suspects = self._suspects()
        self.has_carriage_returns = b"\r" in block.data
        self.failed_searches = 0
        """Searches for the end of a pretty-printed record that had no result."""
        self.uncounted: list[PlainRecord | OtherRecord] = []
        """Records whose tokens are not counted yet."""

    def _traits(self) -> list[int | None]:
        if self.auxiliary_marks is None:
            return [plain_dialogue_traits(record) for record in self.parsed]
        marks_of = self.auxiliary_marks.get
        return [plain_dialogue_traits(record, marks_of(index, ())) for index, record in enumerate(self.parsed)]

    def _suspects(self) -> set[int]:
        """Indices of the lines in which an object may have a key twice, which the strict parser accepts."""
        keys = [
            count_keys(record) if traits is None else 1 + 2 * len(record["messages"])
            for record, traits in zip(self.parsed, self.traits or repeat(None), strict=False)
        ]
        parsed = [index for index, record in enumerate(self.parsed) if record is not UNPARSABLE]
        unusual = (
            None
            if self.auxiliary_marks is None
            else {index for index, marks in self.auxiliary_marks.items() if UNUSUAL_KEYS in marks}
        )
        return lines_with_possible_duplicate_keys(self.block.data, self.raws, keys, parsed, unusual)

    def run(self) -> PartialScan:
        """Scan every line, then count the tokens of all records together."""
        self.run_rules()
        part = self.part
        part.lines = len(self.raws)
        part.is_unterminated = self.block.ends_file
        self._count()
        return part

    def run_rules(self) -> None:
        """Run the rules on every line."""
        index = 0
        while index < len(self.raws):
            index = self._scan_line(index)

    def _scan_line(self, index: int) -> int:
        """Scan one line and return the index of the next one."""
        record = self.parsed[index]
        traits = self.traits[index] if self.traits else None
        if traits is not None:
            self._scan_plain_record(index, record, traits)
            return index + 1
        line = self._line_at(index)
        if len(line.raw) > self.scanner.file.settings.max_line_bytes:
            self._report_too_long(line)
            return index + 1
        if record is UNPARSABLE:
            return self._scan_unparsable(line, index)
        self.part.examples += 1
        self._check_accepted(line)
        if type(record) is dict:
            self._scan_record(line, record)
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

    def _check_accepted(self, line: Line) -> None:
        """Run the rules about faults that the strict parser accepts."""
        marks, codes = self.marks.get(line.number - 1, ()), []
        if self.has_carriage_returns and b"\r" in line.raw:
            codes.append("FT006")
        if ALL_MARKS in marks:
            codes.append("FT008")
        if "separator" in marks:
            codes.append("FT012")
        if line.number - 1 in self.suspects:
            codes.append("FT104")
        if codes:
            self._run_line_rules(line, tuple(codes))

    def _scan_plain_record(self, index: int, record: dict[str, Any], traits: int) -> None:
        """The fast path; most records on it break no rule."""
        part, scanner = self.part, self.scanner
        part.examples += 1
        part.shapes["messages"] += 1
        marks = self.marks.get(index, ())
        if marks or self.has_carriage_returns or index in self.suspects:
            self._check_accepted(self._line_at(index))
        rules = scanner.rules_for("chat", traits, marks) if marks else scanner.unmarked_rules(traits)
        if rules:
            dialogue = self._plain_dialogue(index + 1)
            dialogue.marks = marks
            for rule in rules:
                part.tally.add(rule, rule.check(dialogue), index + 1, record)
        if DISPUTED_CHARACTERS in marks:
            dialogue = self._plain_dialogue(index + 1)
            self.uncounted.append(OtherRecord(dialogue, collect_countable_texts(dialogue, scanner.file.model)))
        else:
            self.uncounted.append(PlainRecord(index + 1, record["messages"]))

    def _report_too_long(self, line: Line) -> None:
        self.part.examples += 1
        sized = Line(line.number, line.offset, len(line.raw).to_bytes(8, "big"))
        sized.record = "too-long"
        self._run_line_rules(sized, ("FT010",))

    def _run_line_rules(self, line: Line, codes: tuple[str, ...] | None = None) -> None:
        rules = self.scanner.line_rules
        for rule in rules.values() if codes is None else [rules[code] for code in codes if code in rules]:
            self.part.tally.add(rule, rule.check(line), line.number, line.record)

    def _scan_unparsable(self, line: Line, index: int) -> int:
        """Report everything that is wrong with a line that the strict parser rejects; returns the next index."""
        if not line.raw.strip():
            self._run_line_rules(line, ("FT007",))
            return index + 1
        self.part.examples += 1
        last = self._pretty_printed_end(index)
        if last:
            pretty = Line(index + 1, last - index + 1, b"")
            pretty.record = "pretty"
            self._run_line_rules(pretty, ("FT103",))
            return last + 1
        self._run_line_rules(line)
        if line.text is not None and line.depth <= MAX_DEPTH:
            parse = line.tolerant_parse
            if parse.ok and type(parse.value) is dict and not parse.surrogates:
                self._scan_record(line, parse.value, is_line_checked=True)
        return index + 1

    def _pretty_printed_end(self, index: int) -> int:
        """Index of the last line of a pretty-printed record; 0 if this line does not begin one."""
        opens = self.raws[index].strip()[-1:] in (b"{", b"[", b",") and self.raws[index].lstrip()[:1] == b"{"
        if not opens or self.failed_searches >= MAX_FAILED_SEARCHES:
            return 0
        for last in range(index + 1, min(len(self.raws), index + MAX_PRETTY_LINES)):
            if self.raws[last].rstrip() == b"}" or self.raws[last].rstrip().endswith(b"]}"):
                try:
                    return last if type(orjson.loads(b"\n".join(self.raws[index : last + 1]))) is dict else 0
                except orjson.JSONDecodeError:
                    continue
        self.failed_searches += 1
        return 0

    def _scan_record(self, line: Line, record: dict[str, Any], *, is_line_checked: bool = False) -> None:
        """The slow path: run the rules about records.

        Args:
            line: Its line.
            record: The parsed object.
            is_line_checked: The rules about lines have run already.
        """
        part, file = self.part, self.scanner.file
        shape = shape_of(record)
        part.shapes[shape] += 1
        kind = shape if shape != "messages" else ("rft" if file.format == "rft" else "chat")
        parsed = DatasetRecord(line, record, kind, file)
        if not is_line_checked and not self._check_numbers_and_depth(line, parsed):
            return
        marks = parsed.marks = self.marks.get(line.number - 1, ())
        for rule in self.scanner.rules_for(kind, parsed.traits, marks):
            part.tally.add(rule, rule.check(parsed), line.number, record)
        if parsed.lists:
            self.uncounted.append(OtherRecord(parsed, collect_countable_texts(parsed, file.model)))

    def _check_numbers_and_depth(self, line: Line, parsed: DatasetRecord) -> bool:
        """Report numbers that lose digits; False if the record is nested too deep for the other rules."""
        raw = line.raw
        if not parsed.traits & ~ANSWER_TRAITS and len(parsed.lists) == 1 and len(line.record) == 1:
            return True
        if _LONG_NUMBER.search(raw):
            self._run_line_rules(line, ("FT105",))
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and line.depth > MAX_DEPTH:
            self._run_line_rules(line, ("FT107",))
            return False
        return True

    def _count(self) -> None:
        """Count the tokens of all records of the block, and add their figures and fingerprints."""
        part, counter, limit = self.part, self.scanner.counter, self.scanner.file.token_limit
        dialogues = [item.messages for item in self.uncounted if isinstance(item, PlainRecord)]
        plain = counter.count_plain(dialogues, is_undisputed=self.scanner.has_prefilter)
        others = counter.count([item.request for item in self.uncounted if isinstance(item, OtherRecord)])
        for item in self.uncounted:
            if isinstance(item, PlainRecord):
                total, trained = next(plain)
                number, messages = item
                turns = len(messages)
                part.content.add_plain(messages, number)
                fingerprint_store.append(part.fingerprints, number, *fingerprint_dialogue(messages))
            else:
                total, trained, is_lower_bound = next(others)
                part.tokens.lower_bounds += is_lower_bound
                number, turns = self._add_statistics(item.record, item.request)
            part.tokens.add(total, trained, turns, number)
            if self.scanner.plan.collect_row_tokens:
                part.row_tokens.extend((number, total, trained))
            if limit is not None and self._may_be_overlong(number, total, limit):
                record = self._plain_dialogue(number) if isinstance(item, PlainRecord) else item.record
                self._report_overlong(record, total, limit)

    def _add_statistics(self, record: DatasetRecord, request: TokenCountRequest) -> tuple[int, int]:
        """Add figures and fingerprint of a record; returns its line and the number of its messages."""
        part, number = self.part, record.line.number
        part.tokens.images += request.images
        part.with_images += bool(request.images)
        part.content.add(record)
        fingerprint_store.append(part.fingerprints, number, *fingerprint_record(record))
        return number, sum(len(messages) for _, messages in record.lists if type(messages) is list)

    def _plain_dialogue(self, number: int) -> DatasetRecord:
        """The record of a line on the fast path."""
        return DatasetRecord.of_dialogue(self._line_at(number - 1), self.scanner.file, self.traits[number - 1] or 0)

    def _may_be_overlong(self, number: int, total: int, limit: int) -> bool:
        """Whether a record has more tokens than the limit, or can have more for the tokenizer of the local model."""
        if self.scanner.file.training_check is None or not self.scanner.overlong_rules:
            return total > limit
        return total * MAX_TOKENS_PER_REFERENCE_TOKEN > limit and len(self.raws[number - 1]) > limit // 2

    def _report_overlong(self, record: DatasetRecord, total: int, limit: int) -> None:
        list_path, messages = record.lists[-1]
        last = messages[-1] if type(messages) is list and messages else {}
        last_path = f"{list_path}[{len(messages) - 1}].content" if messages else list_path
        cuts_answer = type(last) is dict and last.get("role") == "assistant"
        is_dropped = drops_long_examples(self.scanner.file.target)
        overlong = OverlongRecord(total, limit, last_path, cuts_answer, is_dropped=is_dropped)
        check = self.scanner.file.training_check
        if check is not None and (lengths := check.lengths(record.record)) is not None:
            total, with_answers = lengths
            overlong = OverlongRecord(total, limit, last_path, with_answers > limit, is_local=True)
        if total <= limit:
            return
        for rule in self.scanner.overlong_rules:
            if record.kind in rule.formats:
                self.part.tally.add(rule, rule.check(overlong), record.line.number, record.record)


def line_offsets(raws: list[bytes]) -> list[int]:
    """Offset of each line in its block."""
    return [offset + index for index, offset in enumerate(accumulate(map(len, raws[:-1]), initial=0))]


def parse_all(raws: list[bytes], max_line_bytes: int) -> list[Any]:
    """The value of each line; ``UNPARSABLE`` if the strict parser rejects it or the line is too long."""
    loads, parsed = orjson.loads, []
    for raw in raws:
        try:
            parsed.append(loads(raw) if len(raw) <= max_line_bytes else UNPARSABLE)
        except orjson.JSONDecodeError:
            parsed.append(UNPARSABLE)
    return parsed


PREFILTER_MIN_BYTES = 2_000_000
"""In smaller files compiling the patterns of the prefilter costs more than it saves."""


def preload(encoding: str = DEFAULT_ENCODING) -> None:
    """Build what scanning most large files needs, before the plan is known; the scanner then reuses it.

    Args:
        encoding: Which tokens will be counted.
    """
    all_rules()
    # Compiling patterns and building a tokenizer can use two cores.
    thread = Thread(target=prefilter.compiled) if prefilter.is_available() else None
    if thread:
        thread.start()
    open_counter(encoding, size=PREFILTER_MIN_BYTES).count(["ready"])
    if thread:
        thread.join()


class Scanner:
    """Scans blocks of lines under one plan; made once per process."""

    def __init__(self, plan: ScanPlan) -> None:
        self.plan = plan
        self.file = plan.file
        active = [rule for rule in all_rules() if plan.file.settings.wants(rule.code) and not self._is_off(rule)]
        self.line_rules = {rule.code: rule for rule in active if rule.scope == "line"}
        self.record_rules = {
            kind: [rule for rule in active if rule.scope == "row" and kind in rule.formats]
            for kind in ("chat", "dpo", "rft", "legacy", "unknown")
        }
        self.overlong_rules = [rule for rule in active if rule.scope == "long"]
        self._rules: dict[tuple[str, int, tuple[str, ...]], list[Rule]] = {}
        self._unmarked: dict[int, list[Rule]] = {}
        self._counter: RecordTokenCounter | None = None
        self.has_prefilter = plan.file.size_bytes >= PREFILTER_MIN_BYTES and prefilter.is_available()
        """Hyperscan is installed, and the file is large enough to be worth compiling its patterns."""
        self.find_marks: Callable[[bytes, list[int]], Marks] = (
            prefilter.compiled().find if self.has_prefilter else find_marks
        )

    def _is_off(self, rule: Rule) -> bool:
        threshold = self.file.settings.thresholds.get(rule.code)
        return rule.level_for(self.file.target) == "off" and (threshold is None or threshold.level is None)

    def rules_for(self, kind: str, traits: int, marks: Collection[str]) -> list[Rule]:
        """The rules about records that a record with these traits on a line with these marks can break."""
        key = (kind, traits, tuple(sorted(marks)))
        rules = self._rules.get(key)
        if rules is None:
            rules = self._rules[key] = [
                rule
                for rule in self.record_rules[kind]
                if (not rule.when or rule.when & traits)
                and (not rule.mark or ALL_MARKS in marks or any(mark in marks for mark in rule.mark.split()))
            ]
        return rules

    def unmarked_rules(self, traits: int) -> list[Rule]:
        """The same for plain dialogues on lines without marks."""
        rules = self._unmarked.get(traits)
        if rules is None:
            rules = self._unmarked[traits] = self.rules_for("chat", traits, ())
        return rules

    @property
    def counter(self) -> RecordTokenCounter:
        """The token counter, built on first use."""
        if self._counter is None:
            engine: EngineName = self.file.settings.engine  # type: ignore[assignment]  # checked where settings are read
            self._counter = RecordTokenCounter(
                open_counter(self.plan.encoding, size=self.file.size_bytes, engine=engine), self.plan.encoding
            )
        return self._counter

    def build_counter(self) -> None:
        """Build the token counter now, so that forked workers share it."""
        self.counter.count_cached("ready")

    def scan(self, block: Block) -> PartialScan:
        """Scan one block: rules, tokens, figures and fingerprints."""
        part = PartialScan.of(self.plan)
        if block.too_long:
            self._report_too_long(part, block.too_long)
            return part
        return BlockScanner(self, block, part).run()

    def run_rules(self, block: Block) -> PartialScan:
        """Run the rules on one block, without counting tokens."""
        part = PartialScan.of(self.plan)
        if not block.too_long:
            BlockScanner(self, block, part).run_rules()
        return part

    def _report_too_long(self, part: PartialScan, size: int) -> None:
        line = Line(1, 0, size.to_bytes(8, "big"))
        line.record = "too-long"
        part.lines = part.examples = 1
        if "FT010" in self.line_rules:
            part.tally.add(self.line_rules["FT010"], self.line_rules["FT010"].check(line), 1)
