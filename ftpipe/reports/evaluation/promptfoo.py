"""An evaluation as a Promptfoo configuration, so that it can go on there; JSON, which is YAML too."""

from __future__ import annotations

import json
import re
from typing import Any

from ftpipe.records.evaluation import Arm, Evaluation, Item, Task

_SPELT = {"{{": "{\\u007b", "{%": "{\\u0025", "{#": "{\\u0023", "#}": "#\\u007d"}
"""Promptfoo renders variables as templates; spelt like this no text of the data opens or ends one."""

_WANTED = "JSON.parse(context.vars.expected)"
_CHECKS = {
    Task.LABEL: f"output.trim().toLowerCase() === {_WANTED}.trim().toLowerCase()",
    Task.TEXT: f"output.trim() === {_WANTED}.trim()",
    Task.JSON: f"require('node:util').isDeepStrictEqual(JSON.parse(output), JSON.parse({_WANTED}))",
    Task.TOOLS: (
        "(typeof output === 'string' ? [] : [].concat(output)).map(c => c.function.name).sort().join() === "
        f"{_WANTED}.sort().join()"
    ),
}


def to_promptfoo(evaluation: Evaluation) -> str:
    """The items as tests, the arms as providers, each with the messages that it was asked.

    Messages and wanted answers travel as JSON text in variables, so that neither a template in the data nor a
    ``file://`` in it means anything to Promptfoo.
    """
    arms = [result.arm for result in evaluation.arms]
    document = {
        "description": _still(f"{evaluation.data}, {evaluation.id}, exported by ftpipe"),
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
        settings["tools"] = _still_inside([*tools])
    return {
        "id": _still(f"openai:chat:{arm.model}"),
        "label": _still(arm.name),
        "prompts": [f"arm-{number}"],
        "config": settings,
    }


def _test(item: Item, arms: list[Arm], task: Task) -> dict[str, Any]:
    wanted: Any = item.expected
    if task is Task.TOOLS:
        wanted = [call.name for call in item.expected_calls]
    variables = {f"messages_{number}": _text(_asked(item, arm)) for number, arm in enumerate(arms)}
    return {
        "description": f"line {item.line}",
        "vars": {**variables, "expected": _text(wanted)},
        "assert": [{"type": "javascript", "value": _CHECKS[task]}],
    }


def _asked(item: Item, arm: Arm) -> list[dict[str, Any]]:
    messages = [dict(message) for message in item.messages]
    if arm.system is None:
        return messages
    rest = [message for message in messages if message.get("role") not in ("system", "developer")]
    return [{"role": "system", "content": arm.system}, *rest]


def _text(value: object) -> str:
    """JSON text in which no template opens; braces only ever meet inside strings, where they may be spelt."""
    text = json.dumps(value, ensure_ascii=True)
    for opening, spelt in _SPELT.items():
        text = text.replace(opening, spelt)
    return text


def _still(text: str) -> str:
    """A text in which no template opens, with a space where one would."""
    return re.sub(r"\{(?=[{%#])|#(?=\})", r"\g<0> ", text)


def _still_inside(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """The same for every text in a value; Promptfoo renders its configuration too."""
    if isinstance(value, dict):
        return {_still(key): _still_inside(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_still_inside(part) for part in value]
    return _still(value) if isinstance(value, str) else value
