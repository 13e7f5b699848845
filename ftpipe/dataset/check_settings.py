"""Settings of the checks: which rules run, how severe they are, what is ignored and why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from ftpipe.dataset.json_line import Json
from ftpipe.errors import ConfigError
from ftpipe.suggestions import did_you_mean

Level = Literal["error", "warning", "info", "off"]
_LEVELS = {"error": "error", "warn": "warning", "warning": "warning", "info": "info", "off": "off"}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Severity and tolerance of a rule in this project."""

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
    """Last day on which the entry applies."""


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Settings of one validation; the defaults suit most projects."""

    select: tuple[str, ...] = ()
    """Codes or prefixes to run; empty for all."""
    ignore: tuple[str, ...] = ()
    """Codes or prefixes to leave out."""
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    ignores: tuple[Ignore, ...] = ()
    max_findings: int = 50
    """Findings listed for each rule; the counts stay exact."""
    max_line_bytes: int = 16 * 1024 * 1024
    """Longest line that is read; a longer one is a finding."""
    near_duplicates: bool | None = None
    """Look for near duplicates; ``None``: if the library is installed and the file has at most 8 MiB."""
    processes: int | None = None
    """Processes that scan; ``None``: one per core for large files."""
    engine: str = "auto"
    """Tokenizer: ``auto``, ``pure-python``, ``tiktoken`` or ``gigatoken``."""
    personal: tuple[str, ...] = ("email", "phone", "card", "iban", "ssn")
    """Kinds of personal data that FT902 looks for."""

    def wants(self, code: str) -> bool:
        """True if a rule is selected and not ignored."""
        is_selected = not self.select or any(code.startswith(prefix) for prefix in self.select)
        return is_selected and not any(code.startswith(prefix) for prefix in self.ignore)


def settings_from(values: Mapping[str, Any], codes: Iterable[str]) -> CheckSettings:
    """Settings from the ``[checks]`` table of a configuration file.

    Args:
        values: Keys of ``CheckSettings``; ``thresholds`` a table of ``{level, max_share}``, ``ignores`` a list.
        codes: All codes that exist.

    Raises:
        ConfigError: A key, code, level or date is wrong; the hint suggests a similar one.
    """
    known = {f.name for f in fields(CheckSettings)}
    for key in values:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in [checks].", did_you_mean(key, known))
    all_codes = list(codes)
    choices = dict(values)
    for key in ("select", "ignore", "personal"):
        if key in choices:
            choices[key] = tuple(choices[key])
    check_codes((*choices.get("select", ()), *choices.get("ignore", ())), all_codes)
    thresholds = {
        prefix: _threshold(prefix, value, all_codes) for prefix, value in choices.get("thresholds", {}).items()
    }
    # A longer prefix wins over a shorter one, and a code over both.
    by_length = sorted(thresholds, key=len)
    choices["thresholds"] = {c: thresholds[prefix] for prefix in by_length for c in all_codes if c.startswith(prefix)}
    choices["ignores"] = tuple(_ignore(entry, all_codes) for entry in choices.get("ignores", ()))
    return CheckSettings(**choices)


def check_codes(requested: Iterable[str], known: Iterable[str]) -> None:
    """Reject codes and prefixes that no rule has.

    Raises:
        ConfigError: One is unknown.
    """
    codes = list(known)
    for code in requested:
        if not any(known_code.startswith(code) for known_code in codes) or not code:
            raise ConfigError(f"There is no rule {code!r}.", did_you_mean(code, codes))


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
            "An entry of ignores needs a rule and a reason.", '{rule = "FT803", reason = "intended variety"}'
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
