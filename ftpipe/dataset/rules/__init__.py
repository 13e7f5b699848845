"""The rule table: every rule of every family, by code."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module

from ftpipe.dataset.rules.base import Rule, RuleGroup

TOPICS = (
    "encoding",
    "structure",
    "messages",
    "tools",
    "images",
    "preference",
    "reinforcement",
    "limits",
    "quality",
    "privacy",
)
"""Module of each group of codes: FT0 … FT9."""

NOT_CHECKED = {
    "FT405": ("image-unreachable", "Only asking every host would tell, and nothing is sent anywhere by the checks."),
    "FT605": ("rft-constant-grader", "A grader belongs to a job and not to a file; the job's own rewards show it."),
    "FT811": (
        "language-mix",
        "Telling languages apart needs a detector of a hundred megabytes, and translations differ.",
    ),
    "FT903": ("moderation", "Only the provider's own moderation decides; its refusal names the lines, or none."),
    "FT905": ("safety-erosion", "What is harmful is a judgement; lists of words cry wolf and miss what matters."),
}
"""Codes that other tools or services speak of, and why there is no rule here: code → name and reason."""


@cache
def families() -> dict[str, RuleGroup]:
    """Family name (``FT0`` … ``FT9``) → its rules and title."""
    found = {}
    for digit, topic in enumerate(TOPICS):
        found[f"FT{digit}"] = import_module(f"ftpipe.dataset.rules.{topic}").FAMILY
    return found


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule, ordered by code; a code that looks at lines and at the whole file stands twice."""
    rules: Iterable[Rule] = (rule for family in families().values() for rule in family.rules)
    return tuple(sorted(rules, key=lambda rule: rule.code))


@cache
def codes() -> tuple[str, ...]:
    """Every code once, in order."""
    return tuple(dict.fromkeys(rule.code for rule in all_rules()))


@cache
def find_rule(code: str) -> Rule | None:
    """The rule of a code or of a name, upper or lower case; ``None`` where there is none."""
    word = code.strip()
    return next((rule for rule in all_rules() if word.upper() == rule.code or word.lower() == rule.name), None)
