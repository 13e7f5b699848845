"""Reads lines once and learns everything from them: findings, tokens, fingerprints. Runs in workers, so it is lean."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import orjson

from ftpipe.dataset.counting import Bill, BillCounter, bill_of
from ftpipe.dataset.facts import FileFacts
from ftpipe.dataset.fingerprint import prints_of
from ftpipe.dataset.formats import shape_of
from ftpipe.dataset.hints import EVERY, find_marks
from ftpipe.dataset.lines import BOM, Block
from ftpipe.dataset.parse import MAX_DEPTH, Line, count_keys, may_repeat_keys
from ftpipe.dataset.part import Part, ScanPlan
from ftpipe.dataset.rows import Row
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.rules.rule import ANSWER_MARKS, Rule
from ftpipe.dataset.sizes import LongRow
from ftpipe.dataset.tally import Tally
from ftpipe.dataset.tokens import EngineName, open_counter

PRETTY_LINES = 500
_CONTROLS = bytes(set(range(32)) - {9, 10, 13})
_NOT_CONTROLS = bytes(set(range(256)) - set(_CONTROLS))
_LONG_NUMBER = re.compile(rb"[:\[,]\s*-?[\d.]{15}|\d[eE]")
_SEPARATORS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85")


class Scanner:
    """Scans blocks of lines under one plan; made once per process."""

    def __init__(self, plan: ScanPlan) -> None:
        self.plan = plan
        self.facts = FileFacts(
            plan.name, plan.target, plan.method, plan.model, plan.format, role=plan.role, today=plan.today,
            settings=plan.settings, limit=plan.limit, has_bom=plan.has_bom, reserved=plan.reserved,
        )  # fmt: skip
        active = [r for r in all_rules() if plan.settings.wants(r.code) and not self._is_off(r)]
        self.line_rules = [rule for rule in active if rule.scope == "line"]
        self.row_rules = {
            kind: [rule for rule in active if rule.scope == "row" and kind in rule.formats]
            for kind in ("chat", "dpo", "rft", "legacy", "unknown")
        }
        self.long_rules = [rule for rule in active if rule.scope == "long"]
        self._rules: dict[tuple[str, int, tuple[str, ...]], list[Rule]] = {}
        self._counter: BillCounter | None = None

    def _is_off(self, rule: Rule) -> bool:
        chosen = self.plan.settings.thresholds.get(rule.code)
        return rule.level_for(self.plan.target) == "off" and (chosen is None or chosen.level is None)

    def rules_for(self, kind: str, marks: int, hints: Collection[str]) -> list[Rule]:
        """The row rules that a record with these marks can break; records of one look share the list."""
        key = (kind, marks, tuple(sorted(hints)))
        known = self._rules.get(key)
        if known is None:
            known = self._rules[key] = [
                rule
                for rule in self.row_rules[kind]
                if (not rule.when or rule.when & marks)
                and (not rule.mark or EVERY in hints or any(mark in hints for mark in rule.mark.split()))
            ]
        return known

    @property
    def counter(self) -> BillCounter:
        """The token counter, built when the first record needs it."""
        if self._counter is None:
            engine: EngineName = self.plan.settings.engine  # type: ignore[assignment]  # checked where settings are read
            self._counter = BillCounter(
                open_counter(self.plan.encoding, size=self.plan.size, engine=engine), self.plan.encoding
            )
        return self._counter

    def new_part(self) -> Part:
        """An empty part."""
        return Part(
            Tally(self.plan.settings, self.plan.target, self.plan.today, lines={} if self.plan.collect_lines else None)
        )

    def scan(self, block: Block) -> Part:
        """Learn everything from one block."""
        part = self.new_part()
        if block.too_long:
            self._too_long(part, block.too_long)
            return part
        return BlockScan(self, block, part).run()

    def _too_long(self, part: Part, size: int) -> None:
        line = Line(1, 0, size.to_bytes(8, "big"))
        line.record = "too-long"
        part.lines = part.examples = 1
        for rule in self.line_rules:
            if rule.code == "FT010":
                part.tally.add(rule, rule.check(line), 1)


class BlockScan:
    """The scan of one block."""

    def __init__(self, scanner: Scanner, block: Block, part: Part) -> None:
        self.scanner, self.block, self.part = scanner, block, part
        data = block.data
        self.raws = data.split(b"\n")
        if not self.raws[-1]:
            self.raws.pop()
        self.starts = starts_of(self.raws)
        self.marks = find_marks(data)
        self.always = self._line_rules_for(data)
        self.by_code: dict[str, list[Rule]] = {}
        for rule in scanner.line_rules:
            self.by_code.setdefault(rule.code, []).append(rule)
        self.rows: list[tuple[Row, Bill]] = []

    def _line_rules_for(self, data: bytes) -> list[Rule]:
        """Rules that good lines of this block may break; most blocks need none."""
        codes = set()
        if b"\r" in data:
            codes.add("FT006")
        if data.translate(None, _NOT_CONTROLS) or b"\\u0000" in data:
            codes.add("FT008")
        if any(mark in data for mark in _SEPARATORS):
            codes.add("FT012")
        return [rule for rule in self.scanner.line_rules if rule.code in codes]

    def run(self) -> Part:
        """Scan every line, then count the tokens of all records together."""
        part, index = self.part, 0
        while index < len(self.raws):
            index = self._line(index)
        part.lines = len(self.raws)
        part.unterminated = self.block.ends_file
        self._count()
        return part

    def _line(self, index: int) -> int:
        """Scan one line; returns the index of the next one."""
        raw = self.raws[index]
        if not index and not self.block.offset and raw.startswith(BOM):
            raw = raw[len(BOM) :]
        line = Line(index + 1, self.block.offset + self.starts[index], raw)
        if len(raw) > self.scanner.plan.settings.max_line_bytes:
            self._too_long(line)
            return index + 1
        try:
            line.record = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return self._bad_line(line, index)
        line.parsed = True
        self.part.examples += 1
        for rule in self.always:
            self.part.tally.add(rule, rule.check(line), line.number, line.record)
        if type(line.record) is dict:
            self._record(line, line.record)
        else:
            self._run_line_rules(line, ("FT102",))
        return index + 1

    def _too_long(self, line: Line) -> None:
        self.part.examples += 1
        sized = Line(line.number, line.offset, len(line.raw).to_bytes(8, "big"))
        sized.record = "too-long"
        self._run_line_rules(sized, ("FT010",))

    def _run_line_rules(self, line: Line, codes: tuple[str, ...] | None = None) -> None:
        for rule in self.scanner.line_rules:
            if codes is None or rule.code in codes:
                self.part.tally.add(rule, rule.check(line), line.number)

    def _bad_line(self, line: Line, index: int) -> int:
        """Name everything that is wrong with a line that the strict parser refuses."""
        if not line.raw.strip():
            self._run_line_rules(line, ("FT007",))
            return index + 1
        self.part.examples += 1
        last = self._end_of_pretty(index)
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

    def _end_of_pretty(self, index: int) -> int:
        """Index of the line that ends a record spread over lines; 0 where this is none."""
        if self.raws[index].strip()[-1:] not in (b"{", b"[", b",") or self.raws[index].lstrip()[:1] != b"{":
            return 0
        for last in range(index + 1, min(len(self.raws), index + PRETTY_LINES)):
            if self.raws[last].rstrip() == b"}" or self.raws[last].rstrip().endswith(b"]}"):
                try:
                    return last if type(orjson.loads(b"\n".join(self.raws[index : last + 1]))) is dict else 0
                except orjson.JSONDecodeError:
                    continue
        return 0

    def _record(self, line: Line, record: dict[str, Any], *, checked: bool = False) -> None:
        """Run the row rules on a record and keep it for counting.

        Args:
            line: Its line.
            record: The parsed object.
            checked: True where the line rules have run on the line already.
        """
        part, facts = self.part, self.scanner.facts
        shape = shape_of(record)
        part.shapes[shape] += 1
        kind = shape if shape != "messages" else ("rft" if facts.format == "rft" else "chat")
        row = Row(line, record, kind, facts)
        if not checked and not self._hidden_faults(line, row):
            return
        marks = row.hints = self.marks.get(line.number - 1, ())
        for rule in self.scanner.rules_for(kind, row.marks, marks):
            part.tally.add(rule, rule.check(row), line.number, record)
        if row.lists:
            self.rows.append((row, bill_of(row, facts.model)))

    def _hidden_faults(self, line: Line, row: Row) -> bool:
        """Look for what the strict parser passes over: repeated keys, numbers that do not fit, depth.

        Returns:
            False where the record nests too deep for the other rules.
        """
        raw, record = line.raw, line.record
        plain = not row.marks & ~ANSWER_MARKS and len(row.lists) == 1 and len(record) == 1
        keys = 1 + 2 * len(row.lists[0][1]) if plain else count_keys(record)
        if may_repeat_keys(raw, keys):
            self._run_line_rules(line, ("FT104",))
        if plain:
            return True
        if _LONG_NUMBER.search(raw):
            self._run_line_rules(line, ("FT105",))
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and line.depth > MAX_DEPTH:
            self._run_line_rules(line, ("FT107",))
            return False
        return True

    def _count(self) -> None:
        """Count the tokens of all records of the block, and take their fingerprints."""
        part, limit = self.part, self.scanner.facts.limit
        totals, learnt = self.scanner.counter.count(
            [bill for _, bill in self.rows], [row.tools for row, _ in self.rows]
        )
        for (row, bill), total, trained in zip(self.rows, totals, learnt, strict=True):
            number = row.line.number
            turns = sum(len(messages) for _, messages in row.lists if type(messages) is list)
            part.sizes.add(total, trained, turns, number)
            part.sizes.images += bill.images
            part.with_images += bool(bill.images)
            part.habits.add(row)
            part.prints.extend((number, *prints_of(row)))
            if limit is not None and total > limit:
                self._long(row, total, limit)

    def _long(self, row: Row, total: int, limit: int) -> None:
        base, messages = row.lists[-1]
        last = messages[-1] if type(messages) is list and messages else {}
        role = last.get("role", "") if type(last) is dict else ""
        long = LongRow(total, limit, role, f"{base}[{len(messages) - 1}].content" if messages else base)
        for rule in self.scanner.long_rules:
            if row.kind in rule.formats:
                self.part.tally.add(rule, rule.check(long), row.line.number, row.record)


def starts_of(raws: list[bytes]) -> list[int]:
    """Offset of each line in its block."""
    starts, at = [], 0
    for raw in raws:
        starts.append(at)
        at += len(raw) + 1
    return starts
