"""What the user may choose about the checks: which rules, how strict, what to ignore and why."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal, cast

from ftpipe.dataset.json_line import Json
from ftpipe.errors import ConfigError

Level = Literal["error", "warning", "info", "off"]
_LEVELS = {"error": "error", "warn": "warning", "warning": "warning", "info": "info", "off": "off"}


@dataclass(frozen=True, slots=True)
class Threshold:
    """How a rule is weighed in this project."""

    level: Level | None = None
    """Severity instead of the rule's own."""
    max_share: float = 0.0
    """Share of the records, 0 to 1, that may have this finding before it is reported."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """One accepted finding: a rule, for one record or for all, with the reason."""

    rule: str
    """Code or prefix, for example ``FT8``."""
    reason: str
    record: str = ""
    """SHA-256 of the canonical record, so that the entry survives reordering; empty for every record."""
    expires: dt.date | None = None
    """Last day on which the entry counts."""


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Choices for one validation; the defaults are for everyone."""

    select: tuple[str, ...] = ()
    """Codes or prefixes to run; empty for all."""
    ignore: tuple[str, ...] = ()
    """Codes or prefixes to leave out."""
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    ignores: tuple[Ignore, ...] = ()
    max_findings: int = 50
    """Findings kept for each rule; the counts stay exact."""
    max_line_bytes: int = 16 * 1024 * 1024
    """Longest line that is read; a longer one is a finding."""
    near_duplicates: bool | None = None
    """Look for near duplicates: ``None`` where the library is installed and the file has at most 100,000 records."""
    processes: int | None = None
    """Processes that scan; ``None`` for one per core on files that are worth it."""
    engine: str = "auto"
    """Tokenizer: ``auto``, ``pure-python``, ``tiktoken`` or ``gigatoken``."""
    personal: tuple[str, ...] = ("email", "phone", "card", "iban", "ssn")
    """Kinds of personal data that FT902 looks for."""

    every: bool = False
    """Hand on every finding, not only those that are kept; asked for by the call, never by the configuration."""

    def wants(self, code: str) -> bool:
        """True where a rule is selected and not ignored."""
        chosen = not self.select or any(code.startswith(prefix) for prefix in self.select)
        return chosen and not any(code.startswith(prefix) for prefix in self.ignore)


def settings_from(values: Mapping[str, Any], codes: Iterable[str]) -> CheckSettings:
    """Settings from the ``[checks]`` table of a configuration file.

    Args:
        values: Keys of ``CheckSettings``; ``thresholds`` a table of ``{level, max_share}``, ``ignores`` a list.
        codes: The codes that exist.

    Raises:
        ConfigError: A key, code, level or date is wrong; the hint names the nearest right one.
    """
    known = {f.name for f in fields(CheckSettings)} - {"every"}
    for key in values:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in [checks].", did_you_mean(key, known))
    every = list(codes)
    given = dict(values)
    for key in ("select", "ignore", "personal"):
        if key in given:
            given[key] = tuple(given[key])
    check_codes((*given.get("select", ()), *given.get("ignore", ())), every)
    thresholds = {prefix: _threshold(prefix, value, every) for prefix, value in given.get("thresholds", {}).items()}
    # A longer prefix wins over a shorter one, and a code over both.
    by_length = sorted(thresholds, key=len)
    given["thresholds"] = {c: thresholds[prefix] for prefix in by_length for c in every if c.startswith(prefix)}
    given["ignores"] = tuple(_ignore(entry, every) for entry in given.get("ignores", ()))
    return CheckSettings(**given)


def check_codes(asked: Iterable[str], every: Iterable[str]) -> None:
    """Refuse codes and prefixes that no rule has.

    Raises:
        ConfigError: One is unknown.
    """
    codes = list(every)
    for code in asked:
        if not any(known.startswith(code) for known in codes) or not code:
            raise ConfigError(f"There is no rule {code!r}.", did_you_mean(code, codes))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest right word, or with all of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(words[:40])}"


@lru_cache(maxsize=4096)
def or_remove(word: str, known: frozenset[str]) -> str:
    """A hint for a key that is too much: the nearest right one, or to remove it; the same keys come row after row."""
    hint = did_you_mean(word, known)
    return hint if hint.startswith("Did") else f"Remove it. {hint}."


def _threshold(code: str, value: Json, codes: list[str]) -> Threshold:
    check_codes([code], codes)
    if not isinstance(value, Mapping) or not set(value) <= {"level", "max_share"}:
        raise ConfigError(
            f"The threshold of {code} is not a table of level and max_share.",
            'Example: {level = "warn", max_share = 0.02}',
        )
    level = value.get("level")
    if level is not None and level not in _LEVELS:
        raise ConfigError(f"Unknown level {level!r} for {code}.", did_you_mean(str(level), _LEVELS))
    share = value.get("max_share", 0.0)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ConfigError(f"max_share of {code} is not between 0 and 1.", "0.02 stands for 2 % of the records.")
    return Threshold(cast("Level | None", _LEVELS.get(str(level)) if level else None), float(share))


def _ignore(entry: Json, codes: list[str]) -> Ignore:
    if not isinstance(entry, Mapping) or not entry.get("rule") or not entry.get("reason"):
        raise ConfigError(
            "An entry of ignores needs a rule and a reason.", '{rule = "FT803", reason = "wanted variety"}'
        )
    check_codes([entry["rule"]], codes)
    expires = entry.get("expires")
    if isinstance(expires, str):
        try:
            expires = dt.date.fromisoformat(expires)
        except ValueError as exc:
            raise ConfigError(f"expires {expires!r} is not a date.", "Write it as 2027-01-31.") from exc
    record = str(entry.get("record", "")).removeprefix("sha256:")
    return Ignore(str(entry["rule"]), str(entry["reason"]), record, expires)
