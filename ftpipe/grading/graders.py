"""Graders in OpenAI's own JSON, as metrics: ``string_check``, ``text_similarity``, and ``multi`` over them.

What they name as ``{{item.KEY}}`` is a key of the data's record (``item.expected`` is the wanted answer), and
``{{sample.output_text}}`` or ``{{sample.output_json.KEY}}`` is what the model said. No grader is ever run as code.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ftpipe.errors import UsageError
from ftpipe.grading.json_values import MISSING, comparable, parse_json
from ftpipe.grading.text_similarity import MEASURES
from ftpipe.records.evaluation import Answer, Item

Compute = Callable[[Item, Answer], float]

_SLOT = re.compile(r"\{\{\s*(item|sample)((?:\.[A-Za-z_][\w-]*|\[\d{1,6}\])+)\s*\}\}")
_STEP = re.compile(r"\.([A-Za-z_][\w-]*)|\[(\d+)\]")
_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
_TWO: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_CALLS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp, "sqrt": math.sqrt,
    "log": math.log,
}  # fmt: skip
LONGEST_FORMULA = 500
"""Characters of ``calculate_output``."""


def grader_metric(grader: Mapping[str, Any]) -> Compute:
    """A metric from a grader; its score is kept within 0 and 1.

    Raises:
        UsageError: The grader is of a kind that is not run here, or a field is missing or wrong.
    """
    inner = _compile(grader)

    def graded(item: Item, answer: Answer) -> float:
        """Score of the grader that was given, between 0 and 1."""
        score = inner(item, answer)
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0

    return graded


def _compile(grader: Mapping[str, Any]) -> Compute:
    kind = grader.get("type")
    if kind == "string_check":
        return _string_check(grader)
    if kind == "text_similarity":
        return _text_similarity(grader)
    if kind == "multi":
        return _multi(grader)
    hint = (
        "use --judge MODEL" if kind in ("score_model", "label_model") else "string_check, text_similarity and multi are"
    )
    raise UsageError(f"a grader of type {str(kind)[:40]!r} is not run here", hint)


def _field(grader: Mapping[str, Any], name: str) -> str:
    value = grader.get(name)
    if not isinstance(value, str):
        raise UsageError(
            f"the grader {str(grader.get('name', ''))[:60]!r} has no text {name!r}", "add it to the grader"
        )
    return value


def _string_check(grader: Mapping[str, Any]) -> Compute:
    check = _CHECKS.get(_field(grader, "operation"))
    if check is None:
        raise UsageError(f"there is no operation {grader['operation']!r}", f"known: {', '.join(_CHECKS)}")
    text, reference = _field(grader, "input"), _field(grader, "reference")
    return lambda item, answer: float(check(fill(text, item, answer), fill(reference, item, answer)))


def _text_similarity(grader: Mapping[str, Any]) -> Compute:
    name = _field(grader, "evaluation_metric")
    if name not in MEASURES:
        raise UsageError(f"the text similarity {name[:40]!r} is not measured here", f"known: {', '.join(MEASURES)}")
    text, reference, measure = _field(grader, "input"), _field(grader, "reference"), MEASURES[name]
    return lambda item, answer: measure(fill(text, item, answer), fill(reference, item, answer))


def _multi(grader: Mapping[str, Any]) -> Compute:
    parts = grader.get("graders")
    if not isinstance(parts, Mapping) or not parts or not all(isinstance(part, Mapping) for part in parts.values()):
        raise UsageError("a multi grader needs graders by name", 'write "graders": {"name": {…}, …}')
    compiled = {str(name): _compile(part) for name, part in parts.items()}
    formula = _formula(_field(grader, "calculate_output"), set(compiled))
    return lambda item, answer: _evaluate(formula, {name: part(item, answer) for name, part in compiled.items()})


def _formula(text: str, names: set[str]) -> ast.expr:
    """The formula as a tree of numbers, names and arithmetic; anything else is refused before it is ever reckoned."""
    try:
        tree = (
            ast.parse(text[: LONGEST_FORMULA + 1].strip(), mode="eval").body if len(text) <= LONGEST_FORMULA else None
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or not all(_is_plain(node, names) for node in ast.walk(tree)):
        raise UsageError(
            f"calculate_output {text[:60]!r} cannot be reckoned",
            f"use numbers, the graders' names, + - * / ** and {', '.join(_CALLS)}",
        )
    return tree


def _is_plain(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.Name):
        return node.id in names or node.id in _CALLS
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords and bool(node.args)
    return isinstance(node, ast.BinOp | ast.UnaryOp | ast.USub | ast.UAdd | ast.Load) or type(node) in _TWO


def _evaluate(node: ast.expr, values: Mapping[str, float]) -> float:
    """The value of a formula; 0 where it has none (a division by 0, a root of −1)."""
    try:
        return float(_value(node, values))
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return 0.0


def _value(node: ast.AST, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]  # only numbers pass _is_plain
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _CALLS[node.func.id](*(_value(part, values) for part in node.args))
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _TWO[type(node.op)](_value(node.left, values), _value(node.right, values))
    return 0.0


def fill(template: str, item: Item, answer: Answer) -> str:
    """A template with its slots filled; a slot that names nothing is empty. Filled text is not looked at again."""
    places: dict[str, Any] = {
        "item": {**item.fields, "messages": list(item.messages), "expected": item.expected},
        "sample": {"output_text": answer.text, "output_json": parse_json(answer.text), "output_tools": _tools(answer)},
    }
    return _SLOT.sub(lambda slot: _shown(_found(places[slot[1]], slot[2])), template)


def _tools(answer: Answer) -> list[dict[str, Any]]:
    return [{"function": {"name": call.name, "arguments": call.arguments}} for call in answer.tool_calls]


def _found(value: Any, steps: str) -> Any:  # noqa: ANN401  # any JSON value
    for name, index in _STEP.findall(steps):
        if name and isinstance(value, Mapping) and name in value:
            value = value[name]
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return MISSING
    return value


def _shown(value: Any) -> str:  # noqa: ANN401  # any JSON value
    if value is MISSING:
        return ""
    return value if isinstance(value, str) else comparable(value)
