"""What a rule is: a small function with a code, a name, a severity for each target, an origin and its evidence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ftpipe.dataset.check_settings import Level
from ftpipe.dataset.record_traits import ALWAYS

Origin = Literal["R", "D", "S", "Q", "P", "L"]
Evidence = Literal["observed", "documented", "inferred"]
Scope = Literal["line", "row", "long", "file", "price"]

TARGETS = ("openai", "azure", "nebius", "local")
ALL_FORMATS = frozenset({"chat", "dpo", "rft", "legacy", "unknown"})
MESSAGE_FORMATS = frozenset({"chat", "dpo", "rft"})

ORIGINS: dict[str, str] = {
    "R": "the server refuses it",
    "D": "outside a documented limit",
    "S": "the server changes the data silently",
    "Q": "quality",
    "P": "privacy and safety",
    "L": "breaks local tools",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where a rule fired."""

    path: str
    """JSON path inside the line, empty for the whole line."""
    message: str
    excerpt: str = ""
    line: int | None = None
    """Only for rules about the whole file that point at a line."""
    hint: str = ""
    """Instead of the rule's own hint."""
    level: Level | None = None
    """Instead of the rule's own severity."""
    weight: int = 1
    """How many findings this one stands for, in the exact counts."""


Check = Callable[[Any], Iterable[Violation]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the rule table."""

    code: str
    name: str
    level: Level
    levels: dict[str, Level]
    """Targets whose severity is another one."""
    origin: Origin
    evidence: Evidence
    scope: Scope
    check: Check
    when: int = ALWAYS
    formats: frozenset[str] = ALL_FORMATS
    fix: tuple[Literal["safe", "unsafe"], str] | None = None
    mark: str = ""
    """Names of the prefilters of which one must have marked the row; empty for none."""

    def level_for(self, target: str) -> Level:
        """The severity for a target."""
        return self.levels.get(target, self.level)

    @property
    def text(self) -> RuleText:
        """What, why, fix and source, from the docstring of the rule's function."""
        return rule_text(self.check)

    @property
    def hint(self) -> str:
        """What to do about a finding."""
        return self.text.fix


@dataclass(frozen=True, slots=True)
class RuleText:
    """The words about a rule."""

    what: str
    why: str
    fix: str
    source: str


@lru_cache(maxsize=512)
def rule_text(check: Check) -> RuleText:
    """Read the sections ``Why:``, ``Fix:`` and ``Source:`` of a rule function's docstring."""
    doc = inspect.getdoc(check) or ""
    what, *rest = re.split(r"\n\s*\n", doc, maxsplit=1)
    parts = re.split(r"^(Why|Fix|Source): ", rest[0] if rest else "", flags=re.MULTILINE)
    found = dict(zip(parts[1::2], (re.sub(r"\s+", " ", part).strip() for part in parts[2::2]), strict=True))
    texts = (what.strip(), found.get("Why", ""), found.get("Fix", ""), found.get("Source", ""))
    return RuleText(*(text.replace("``", "`") for text in texts))


class RuleGroup:
    """Collects the rules of one family in the order in which its file defines them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rules: list[Rule] = []

    def rule(
        self,
        code: str,
        name: str,
        level: Level,
        origin: Origin,
        evidence: Evidence,
        *,
        scope: Scope = "row",
        when: int = ALWAYS,
        formats: frozenset[str] = ALL_FORMATS,
        fix: tuple[Literal["safe", "unsafe"], str] | None = None,
        mark: str = "",
        **levels: Level,
    ) -> Callable[[Check], Check]:
        """Enter the decorated function into the table.

        Args:
            code: ``FTnnn``; never used again for another rule.
            name: Kebab case.
            level: Severity, unless ``levels`` names another one for a target.
            origin: One letter of ``ORIGINS``.
            evidence: ``observed``, ``documented`` or ``inferred``.
            scope: What the function is given: ``line`` a ``Line``, ``row`` a ``DatasetRecord``,
                ``long`` an ``OverlongRecord``, ``file`` a ``ScanStatistics``, ``price`` a ``CostQuote``.
            when: Marks of which the row must have one.
            formats: Formats of the row (or file) that the rule is for.
            fix: Kind and note of the automatic fix.
            mark: Prefilter that must have marked the row.
            **levels: Severity by target.
        """

        def enter(check: Check) -> Check:
            self.rules.append(Rule(code, name, level, levels, origin, evidence, scope, check, when, formats, fix, mark))
            return check

        return enter


_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape_preview(text: object, limit: int = 60) -> str:
    """Data made safe to print: control, direction and invisible characters as escapes, cut to ``limit`` characters."""
    raw = text if isinstance(text, str) else repr(text)
    raw = raw if len(raw) <= limit else raw[: limit - 1] + "…"
    return _UNPRINTABLE.sub(lambda m: m.group().encode("unicode_escape", "surrogatepass").decode(), raw)


def key_path(base: str, key: str) -> str:
    """``base.key``, or ``base["odd key"]`` where the key is not a plain word."""
    if re.fullmatch(r"[A-Za-z_][\w-]{0,63}", key):
        return f"{base}.{key}" if base else key
    return f'{base}["{escape_preview(key, 40)}"]'
