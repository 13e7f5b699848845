"""The types of a rule: a check function with a code, a name, and a severity for each target."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ftpipe.dataset.check_settings import Level
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record_traits import ALWAYS

Origin = Literal["R", "D", "S", "Q", "P", "L"]
Evidence = Literal["observed", "documented", "inferred"]
Scope = Literal["line", "row", "long", "file", "price"]

TARGETS = ("openai", "azure", "nebius", "local", "together", "fireworks", "bedrock")
ALL_FORMATS = frozenset({"chat", "dpo", "rft", "legacy", "unknown"})
MESSAGE_FORMATS = frozenset({"chat", "dpo", "rft"})

ORIGINS: dict[str, str] = {
    "R": "the server rejects it",
    "D": "differs from what providers document or recommend",
    "S": "the server changes the data silently",
    "Q": "quality",
    "P": "privacy and safety",
    "L": "breaks local tools",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault that a rule reports."""

    path: str
    """JSON path in the record; empty for the whole line."""
    message: str
    excerpt: str = ""
    line: int | None = None
    """Only for rules about the whole file that report a line."""
    hint: str = ""
    """Replaces the hint of the rule."""
    level: Level | None = None
    """Replaces the severity of the rule."""
    weight: int = 1
    """Number of findings that this one counts for."""


Check = Callable[[Any], Iterable[Violation]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the rule table."""

    code: str
    name: str
    level: Level
    levels: dict[str, Level]
    """Severity for targets that differ from ``level``."""
    origin: Origin
    evidence: Evidence
    scope: Scope
    check: Check
    when: int = ALWAYS
    formats: frozenset[str] = ALL_FORMATS
    fix: tuple[Literal["safe", "unsafe"], str] | None = None
    mark: str = ""
    """Names of prefilters, separated by spaces; one of them must have marked the record. Empty if none is needed."""

    def level_for(self, target: str) -> Level:
        """The severity for a target."""
        return self.levels.get(target, self.level)

    @property
    def text(self) -> RuleText:
        """Description, reason, fix and source, from the docstring of the check function."""
        return rule_text(self.check)

    @property
    def hint(self) -> str:
        """How to fix a finding."""
        return self.text.fix


@dataclass(frozen=True, slots=True)
class RuleText:
    """The documentation of a rule."""

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
    sections = dict(zip(parts[1::2], (re.sub(r"\s+", " ", part).strip() for part in parts[2::2]), strict=True))
    texts = (what.strip(), sections.get("Why", ""), sections.get("Fix", ""), sections.get("Source", ""))
    return RuleText(*(text.replace("``", "`") for text in texts))


class RuleGroup:
    """Collects the rules of one topic in the order of their definition."""

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
        """Register the decorated check function.

        Args:
            code: ``FTnnn``; never reused for another rule.
            name: In kebab case.
            level: Severity, unless ``levels`` has another one for the target.
            origin: A key of ``ORIGINS``.
            evidence: ``observed``, ``documented`` or ``inferred``.
            scope: What the function checks: ``line`` a ``Line``, ``row`` a ``DatasetRecord``,
                ``long`` an ``OverlongRecord``, ``file`` a ``ScanStatistics``, ``price`` a ``CostQuote``.
            when: Traits of which the record must have one.
            formats: Formats of the record (or file) to which the rule applies.
            fix: Kind and description of the automatic fix.
            mark: Prefilters, separated by spaces, of which one must have marked the record.
            **levels: Severity by target.
        """

        def register(check: Check) -> Check:
            self.rules.append(Rule(code, name, level, levels, origin, evidence, scope, check, when, formats, fix, mark))
            return check

        return register


_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape_preview(text: object, limit: int = 60) -> str:
    """Data that is safe to print: control, direction and invisible characters are escaped; at most ``limit`` long."""
    raw = text if isinstance(text, str) else repr(text)
    raw = raw if len(raw) <= limit else raw[: limit - 1] + "…"
    return _UNPRINTABLE.sub(lambda m: m.group().encode("unicode_escape", "surrogatepass").decode(), raw)


def describe_value(value: object) -> str:
    """A JSON value with its type, for a message: ``the string '0'``, ``the number 0``, ``null``, ``the list [1]``."""
    match value:
        case str():
            return f"the string '{escape_preview(value)}'" if value else "the empty string"
        case None | bool():
            return json.dumps(value)
        case float() if not math.isfinite(value):
            return json.dumps(value)
        case int() | float():
            return f"the number {escape_preview(json.dumps(value))}"
        case list() | dict():
            kind = "list" if isinstance(value, list) else "object"
            return f"the {kind} {_preview_json(value)}" if value else f"an empty {kind}"
    return escape_preview(value)


def _preview_json(value: Json) -> str:
    """The beginning of a list or object as JSON writes it; long and deep parts are left out before they are written."""
    return escape_preview(json.dumps(_shortened(value), ensure_ascii=False))


def _shortened(value: Json, levels: int = 3) -> Json:
    if isinstance(value, str):
        return value[:60]
    if isinstance(value, list | dict) and not levels:
        return "…"
    if isinstance(value, list):
        return [_shortened(item, levels - 1) for item in value[:10]]
    if isinstance(value, dict):
        return {key[:40]: _shortened(value[key], levels - 1) for key in list(value)[:10]}
    return value


def describe_text(value: object) -> str:
    """The same for a message in which a string is expected: ``'assistnt'`` in quotes, other values with their type."""
    return f"'{escape_preview(value, 40)}'" if isinstance(value, str) and value else describe_value(value)


def speaker(message: dict[str, Any]) -> str:
    """``assistant message`` for a message; ``message`` if its role is not a text."""
    role = message.get("role")
    return f"{escape_preview(role, 20)} message" if isinstance(role, str) and role else "message"


def key_path(base: str, key: str) -> str:
    """``base.key``, or ``base["odd key"]`` if the key is not a plain word."""
    if re.fullmatch(r"[A-Za-z_][\w-]{0,63}", key):
        return f"{base}.{key}" if base else key
    return f'{base}["{escape_preview(key, 40)}"]'
