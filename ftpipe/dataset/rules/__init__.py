"""The rule table: every rule of every group, by code."""

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
    "FT405": ("image-unreachable", "Only a request to every host could show it, and the checks send nothing anywhere."),
    "FT605": ("rft-constant-grader", "A grader belongs to a job and not to a file; the rewards of the job show it."),
    "FT811": (
        "language-mix",
        "Detecting languages needs a model of about 100 MB, and translation datasets mix languages on purpose.",
    ),
    "FT903": ("moderation", "Only the provider's moderation decides; its error message names the lines, or none."),
    "FT905": (
        "safety-erosion",
        "What is harmful is a matter of judgment; word lists raise false alarms and miss cases.",
    ),
}
"""Codes that other tools or services use and that have no rule here: code → name and reason."""


@cache
def rule_groups() -> dict[str, RuleGroup]:
    """Prefix of the codes (``FT0`` … ``FT9``) → rules and title of the group."""
    return {f"FT{digit}": import_module(f"ftpipe.dataset.rules.{topic}").GROUP for digit, topic in enumerate(TOPICS)}


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule, ordered by code; a code that checks both lines and the whole file is listed twice."""
    rules: Iterable[Rule] = (rule for group in rule_groups().values() for rule in group.rules)
    return tuple(sorted(rules, key=lambda rule: rule.code))


@cache
def codes() -> tuple[str, ...]:
    """Every code once, in order."""
    return tuple(dict.fromkeys(rule.code for rule in all_rules()))


@cache
def names_of_row_rules() -> dict[str, str]:
    """Code → name of the rules whose findings are about single rows, which a job can leave out."""
    about_files = {rule.code for rule in all_rules() if rule.scope in ("file", "price")}
    return {rule.code: rule.name for rule in all_rules() if rule.code not in about_files}


@cache
def find_rule(code: str) -> Rule | None:
    """The rule with a code or name, in upper or lower case; ``None`` if there is none."""
    word = code.strip()
    return next((rule for rule in all_rules() if word.upper() == rule.code or word.lower() == rule.name), None)
