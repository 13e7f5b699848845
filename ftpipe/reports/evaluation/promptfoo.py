"""An evaluation as a Promptfoo configuration in JSON, which is also YAML."""

from __future__ import annotations

import json
import re
from typing import Any

from ftpipe.records.evaluation import Arm, Evaluation, Item, Task

_ESCAPES = {"{{": "{\\u007b", "{%": "{\\u0025", "{#": "{\\u0023", "#}": "#\\u007d"}
"""Promptfoo renders variables as templates. Escaped like this, no text in the data starts or ends one."""

_EXPECTED = "JSON.parse(context.vars.expected)"
_CHECKS = {
    Task.LABEL: f"output.trim().toLowerCase() === {_EXPECTED}.trim().toLowerCase()",
    Task.TEXT: f"output.trim() === {_EXPECTED}.trim()",
    Task.JSON: f"require('node:util').isDeepStrictEqual(JSON.parse(output), JSON.parse({_EXPECTED}))",
    Task.TOOLS: (
        "(typeof output === 'string' ? [] : [].concat(output)).map(c => c.function.name).sort().join() === "
        f"{_EXPECTED}.sort().join()"
    ),
}


def to_promptfoo(evaluation: Evaluation) -> str:
    """The items as tests, the arms as providers, each with its messages.

    Messages and expected answers are JSON text in variables, so that Promptfoo interprets neither templates nor
    ``file://`` in the data.
    """
    arms = [result.arm for result in evaluation.arms]
    document = {
        "description": _without_templates(f"{evaluation.data}, {evaluation.id}, exported by ftpipe"),
        "prompts": [
            {"id": f"arm-{number}", "label": f"arm-{number}", "raw": f"{{{{messages_{number}}}}}"}
            for number in range(len(arms))
        ],
        "providers": [_provider(arm, number, evaluation) for number, arm in enumerate(arms)],
        "tests": [_test(outcome.item, arms, evaluation.task) for outcome in evaluation.outcomes],
    }
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def _provider(arm: Arm, number: int, evaluation: Evaluation) -> dict[str, Any]:
    sampling = evaluation.sampling
    settings: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    if sampling.seed is not None:
        settings["seed"] = sampling.seed
    tools = next((outcome.item.tools for outcome in evaluation.outcomes if outcome.item.tools), ())
    if tools:
        settings["tools"] = _without_templates_inside([*tools])
    return {
        "id": _without_templates(f"openai:chat:{arm.model}"),
        "label": _without_templates(arm.name),
        "prompts": [f"arm-{number}"],
        "config": settings,
    }


def _test(item: Item, arms: list[Arm], task: Task) -> dict[str, Any]:
    expected: Any = item.expected
    if task is Task.TOOLS:
        expected = [call.name for call in item.expected_calls]
    variables = {f"messages_{number}": _text(arm.messages_for(item)) for number, arm in enumerate(arms)}
    return {
        "description": f"line {item.line}",
        "vars": {**variables, "expected": _text(expected)},
        "assert": [{"type": "javascript", "value": _CHECKS[task]}],
    }


def _text(value: object) -> str:
    """JSON text without template delimiters; they only occur inside strings, where they can be escaped."""
    text = json.dumps(value, ensure_ascii=True)
    for delimiter, escaped in _ESCAPES.items():
        text = text.replace(delimiter, escaped)
    return text


def _without_templates(text: str) -> str:
    """The text with a space inside each template delimiter."""
    return re.sub(r"\{(?=[{%#])|#(?=\})", r"\g<0> ", text)


def _without_templates_inside(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """The same for every text in a value, because Promptfoo renders its configuration as well."""
    if isinstance(value, dict):
        return {_without_templates(key): _without_templates_inside(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_templates_inside(part) for part in value]
    return _without_templates(value) if isinstance(value, str) else value
