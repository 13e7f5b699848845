"""Reads lines once and learns everything from them: findings, tokens, fingerprints. Runs in workers, so it is lean."""

from __future__ import annotations

from collections.abc import Callable, Collection
from threading import Thread

from ftpipe.dataset import prefilter
from ftpipe.dataset.blockscan import BlockScanner
from ftpipe.dataset.counting import RecordTokenCounter
from ftpipe.dataset.facts import FileContext
from ftpipe.dataset.hints import ALL_MARKS, Marks, find_marks
from ftpipe.dataset.lines import Block
from ftpipe.dataset.parse import Line
from ftpipe.dataset.part import PartialScan, ScanPlan
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.rules.rule import Rule
from ftpipe.dataset.tokens import DEFAULT_ENCODING, EngineName, open_counter

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
        self.facts = FileContext(
            plan.name, plan.target, plan.method, plan.model, plan.format, role=plan.role, today=plan.today,
            settings=plan.settings, limit=plan.limit, has_bom=plan.has_bom, reserved=plan.reserved,
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
