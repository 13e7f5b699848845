"""An evaluation as one self-contained HTML page that works offline and runs no script.

The content security policy allows only the page's own style sheet, by hash. Every text passes Jinja2's autoescape
after control and direction characters are made visible, so that no data is active.
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

from ftpipe.records import Model, TrainingMetrics
from ftpipe.records.evaluation import Evaluation, Outcome
from ftpipe.reports.evaluation import charts, wording
from ftpipe.reports.html_templates import html_environment
from ftpipe.reports.json_output import plain_data

MAX_SAMPLES = 1000
"""Items on the page; those that regressed or improved come first."""

FILTERS = (("all", "All"), ("regressed", "Regressed"), ("improved", "Improved"), ("different", "Different"))


@dataclass(frozen=True)
class PageContext:
    """What the registry knows about the arms' models; any of it can be missing."""

    models: Mapping[str, Model] = field(default_factory=dict)
    """Arm name → its registered model."""
    curves: Mapping[str, Sequence[TrainingMetrics]] = field(default_factory=dict)
    """Arm name → the training metrics of its job."""


def to_html(evaluation: Evaluation, context: PageContext | None = None) -> str:
    """The evaluation as HTML.

    Args:
        evaluation: The evaluation.
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
    environment = html_environment(_file)
    environment.filters |= {"breakable": breakable, "seconds": _seconds}
    environment.globals |= {"wording": wording, "svg": charts}
    return environment


def _file(name: str) -> str:
    return resources.files("ftpipe.reports").joinpath("templates", "evaluation", name).read_text(encoding="utf-8")


def breakable(text: str) -> Markup:
    """A model name with optional line breaks after its colons."""
    return Markup(":<wbr>").join(text.split(":"))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


@dataclass(frozen=True)
class Sample:
    """One item of the page."""

    outcome: Outcome
    classes: str
    """CSS classes; no data."""
    prompt: str
    expected: str
    changes: Mapping[str, str]
    """Challenger → ``regressed`` or ``improved``."""


def _samples(evaluation: Evaluation) -> list[Sample]:
    """The items in order of line; if there are too many, unchanged ones are left out."""
    changes: dict[str, dict[str, str]] = {}
    for name in evaluation.challengers:
        for change, outcomes in zip(("regressed", "improved"), evaluation.changed_items(name), strict=True):
            for outcome in outcomes:
                changes.setdefault(outcome.item.id, {})[name] = change
    ranked = sorted(evaluation.outcomes, key=lambda outcome: _rank(changes.get(outcome.item.id, {})))[:MAX_SAMPLES]
    return [
        _sample(evaluation, outcome, changes.get(outcome.item.id, {}))
        for outcome in sorted(ranked, key=lambda outcome: outcome.item.line)
    ]


def _rank(changes: Mapping[str, str]) -> int:
    return 0 if "regressed" in changes.values() else 1 if changes else 2


def _sample(evaluation: Evaluation, outcome: Outcome, changes: Mapping[str, str]) -> Sample:
    classes = []
    for number, name in enumerate(evaluation.challengers):
        base_text, text = (wording.answer_text(outcome.answers[arm][0]) for arm in (evaluation.baseline, name))
        classes += [f"different-{number}"] if base_text != text else []
        classes += [f"{changes[name]}-{number}"] if name in changes else []
    calls = "".join(f"\n→ {call.name}({call.arguments})" for call in outcome.item.expected_calls)
    prompt = "\n".join(
        f"{message.get('role')}: {_content(message.get('content'))}" for message in outcome.item.messages
    )
    return Sample(outcome, " ".join(classes), prompt, (outcome.item.expected + calls).strip("\n"), changes)


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(plain_data(content), ensure_ascii=False)


_INVISIBLE = re.compile("[\u2028\u2029]")


def _raw(evaluation: Evaluation) -> str:
    """The evaluation without its items, as JSON to copy."""
    data: Any = plain_data(evaluation.model_dump(mode="json", exclude={"outcomes"}))
    return _INVISIBLE.sub(" ", json.dumps(data, indent=1, ensure_ascii=True))
