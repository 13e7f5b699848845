"""An evaluation as one self-contained HTML page: opens offline, can be mailed, and runs nothing at all.

The page has no script. Its policy forbids everything but its own style sheet, by hash; every text passes Jinja2's
autoescape after control and direction characters are made visible, so that no data can act.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from ftpipe.formatting import count, format_decimal, format_money, format_time, plural, sanitize_block, sanitize_line
from ftpipe.records import Model, TrainingMetrics
from ftpipe.records.evaluation import Answer, Evaluation, Outcome
from ftpipe.reports.evaluation import charts, wording
from ftpipe.reports.json_output import plain_data

MAX_SAMPLES = 1000
"""Items on the page; those that got worse or better come first, the others as far as there is room."""

MAX_TEXT_CHARACTERS = 4000
"""Characters of one text."""

FILTERS = (("all", "All"), ("worse", "Regressed"), ("better", "Improved"), ("different", "Different"))


@dataclass(frozen=True)
class PageContext:
    """What the registry knows about the arms' models; all of it may be missing."""

    models: Mapping[str, Model] = field(default_factory=dict)
    """Arm name → its registered model."""
    curves: Mapping[str, Sequence[TrainingMetrics]] = field(default_factory=dict)
    """Arm name → the training metrics of its job."""


def to_html(evaluation: Evaluation, context: PageContext | None = None) -> str:
    """The evaluation as HTML.

    Args:
        evaluation: What was found.
        context: Lineage and training curves of the arms' models.
    """
    context = context or PageContext()
    style = _style(len(evaluation.challengers))
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            evaluation=evaluation,
            context=context,
            style=Markup(style),  # noqa: S704  # our own file and integers, no data
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            ordered=wording.ordered_challengers(evaluation),
            metrics=wording.ordered_metrics(evaluation),
            comparisons=wording.ordered_comparisons(evaluation),
            reach=charts.difference_scale(evaluation),
            charts={name: charts.loss_chart(metrics) for name, metrics in context.curves.items()},
            samples=_samples(evaluation),
            filters=FILTERS,
            raw=_raw(evaluation),
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _style(challengers: int) -> str:
    """The style sheet, with a filter rule for every challenger."""
    rules = [_file("page.css")]
    for number in range(challengers):
        rules.append(f"body:has(#arm-{number}:checked) .for-arm:not(.arm-{number}){{display:none}}")
        rules += [
            f"body:has(#arm-{number}:checked):has(#show-{name}:checked) .sample:not(.{name}-{number}){{display:none}}"
            for name, _ in FILTERS[1:]
        ]
    return "\n".join(rules)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_file),
    )  # fmt: skip
    environment.filters |= {
        "clean": sanitize_line,
        "block": _shown_block,
        "breakable": breakable,
        "count": count,
        "decimal": format_decimal,
        "money": format_money,
        "moment": format_time,
        "plural": plural,
        "seconds": _seconds,
    }
    environment.globals |= {"wording": wording, "svg": charts, "shown": _shown_answer}
    return environment


def _file(name: str) -> str:
    return resources.files("ftpipe.reports").joinpath("templates", "evaluation", name).read_text(encoding="utf-8")


def breakable(text: str) -> Markup:
    """A model's name that may be broken behind its colons, where it does not fit."""
    return Markup(":<wbr>").join(text.split(":"))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _shown_block(text: str) -> str:
    """A text of several lines, cut to its longest."""
    rest = len(text) - MAX_TEXT_CHARACTERS
    return sanitize_block(text[:MAX_TEXT_CHARACTERS]) + (f" … ({rest:,} more characters)" if rest > 0 else "")


def _shown_answer(answer: Answer) -> str:
    """An answer as text: what was said, which tools were called, or why it was refused."""
    calls = "".join(f"\n→ {call.name}({call.arguments})" for call in answer.tool_calls)
    return f"refused: {answer.error}" if answer.error else (answer.text + calls).strip("\n")


@dataclass(frozen=True)
class Sample:
    """One item as it is shown."""

    outcome: Outcome
    classes: str
    """Names of our own making only."""
    asked: str
    wanted: str
    marks: Mapping[str, str]
    """Challenger → ``worse``, ``better`` or empty."""


def _samples(evaluation: Evaluation) -> list[Sample]:
    """The items, those that moved first within the limit, in order of line."""
    moved: dict[str, dict[str, str]] = {}
    for name in evaluation.challengers:
        for kind, outcomes in zip(("worse", "better"), evaluation.changed_items(name), strict=True):
            for outcome in outcomes:
                moved.setdefault(outcome.item.id, {})[name] = kind
    ranked = sorted(evaluation.outcomes, key=lambda outcome: _rank(moved.get(outcome.item.id, {})))[:MAX_SAMPLES]
    return [
        _sample(evaluation, one, moved.get(one.item.id, {})) for one in sorted(ranked, key=lambda one: one.item.line)
    ]


def _rank(marks: Mapping[str, str]) -> int:
    return 0 if "worse" in marks.values() else 1 if marks else 2


def _sample(evaluation: Evaluation, outcome: Outcome, marks: Mapping[str, str]) -> Sample:
    classes = []
    for number, name in enumerate(evaluation.challengers):
        before, after = (_shown_answer(outcome.answers[arm][0]) for arm in (evaluation.baseline, name))
        classes += [f"different-{number}"] if before != after else []
        classes += [f"{marks[name]}-{number}"] if name in marks else []
    wanted = "".join(f"\n→ {call.name}({call.arguments})" for call in outcome.item.expected_calls)
    asked = "\n".join(f"{message.get('role')}: {_content(message.get('content'))}" for message in outcome.item.messages)
    return Sample(outcome, " ".join(classes), asked, (outcome.item.expected + wanted).strip("\n"), marks)


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(plain_data(content), ensure_ascii=False)


_INVISIBLE = re.compile("[\u2028\u2029]")


def _raw(evaluation: Evaluation) -> str:
    """Everything but the items, as JSON for people to copy."""
    data: Any = plain_data(evaluation.model_dump(mode="json", exclude={"outcomes"}))
    return _INVISIBLE.sub(" ", json.dumps(data, indent=1, ensure_ascii=True))
