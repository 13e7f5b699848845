"""The rule table as one Markdown page; ``ftpipe explain --all --output-format md`` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.rules import NOT_CHECKED, families
from ftpipe.dataset.rules.base import ORIGINS, TARGETS, Rule, RuleGroup

_HEAD = """# Catalogue of the dataset checks

Made by `ftpipe explain --all --output-format md`; a test holds it to the table of rules. `ftpipe explain FT204` prints
one rule with its source.

Severity depends on the target: an **error** is what the target refuses, or what makes the training useless; – is off.
Ground: {ground}. A fix that is *safe* keeps the meaning and is applied by `ftpipe prepare --fix`; an *unsafe* one drops
or changes something and waits for `--unsafe-fixes`. Rules are selected and left out by code or prefix: `--select FT2`,
`--ignore FT8`, and weighed in `ftpipe.toml`.
"""


def markdown() -> str:
    """Every rule of every family, one table for each."""
    ground = ", ".join(f"{letter} {word}" for letter, word in ORIGINS.items())
    number = sum(len(_once(family)) for family in families().values())
    parts = [_HEAD.format(ground=ground), f"{number} rules.\n"]
    parts += ["\n".join(_family(name, family)) for name, family in families().items()]
    parts.append("\n## Not checked here\n\n| code | why |\n|---|---|")
    parts += [f"| **{code}** {name} | {_cell(why)} |" for code, (name, why) in NOT_CHECKED.items()]
    return "\n".join(parts) + "\n"


def _once(family: RuleGroup) -> list[Rule]:
    """The rules of a family by code; one that looks at lines and at the whole file, or at more for a target, once."""
    return sorted({rule.code: rule for rule in reversed(family.rules)}.values(), key=lambda rule: rule.code)


def _family(name: str, family: RuleGroup) -> Iterator[str]:
    yield f"\n## {name} {family.title}\n"
    yield f"| code | {' | '.join(TARGETS)} | what | what to do | ground |"
    yield f"|---|{'---|' * len(TARGETS)}---|---|---|"
    for rule in _once(family):
        levels = [_strongest(family, rule, target) for target in TARGETS]
        fix = f" ({rule.fix[0]}: {rule.fix[1]})" if rule.fix else ""
        text = rule.text
        cells = (f"**{rule.code}** {rule.name}", *levels, text.what, text.fix + fix, f"{rule.origin}, {rule.evidence}")
        yield f"| {' | '.join(map(_cell, cells))} |"


def _strongest(family: RuleGroup, rule: Rule, target: str) -> str:
    order = ("error", "warning", "info", "off")
    levels = [other.level_for(target) for other in family.rules if other.code == rule.code]
    level = min(levels, key=order.index)
    return "–" if level == "off" else level


def _cell(text: str) -> str:
    plain = " ".join(text.split())
    return plain.replace("|", "\\|").replace("<", "&lt;").replace("{{", "&#123;&#123;")
