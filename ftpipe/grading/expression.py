"""Arithmetic over named scores, evaluated without running code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ftpipe.errors import FtpipeError

MAX_LENGTH = 1000
MAX_NODES = 200
MAX_POWER = 64

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


class ExpressionError(FtpipeError):
    """A formula that cannot be read or computed."""

    code = "formula"


def variable_names(formula: str) -> set[str]:
    """The scores that a formula uses.

    Raises:
        ExpressionError: If it is no arithmetic over names.
    """
    tree = _parse(formula)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The value of a formula.

    Args:
        formula: ``+ - * / **``, parentheses, numbers, names, and min, max, abs, floor, ceil, exp, sqrt, log.
        values: What the names stand for.

    Raises:
        ExpressionError: If it cannot be read, or has no finite value.
    """
    try:
        value = float(_value(_parse(formula), values))
    except (ArithmeticError, ValueError, TypeError) as exc:
        message = f"the formula has no value: {exc}"
        raise ExpressionError(message) from exc
    if not math.isfinite(value):
        message = "the formula has no finite value"
        raise ExpressionError(message)
    return value


def _parse(formula: str) -> ast.expr:
    if len(formula) > MAX_LENGTH:
        message = f"a formula has at most {MAX_LENGTH} characters"
        raise ExpressionError(message)
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        message = "the formula cannot be read"
        raise ExpressionError(message) from exc
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        message = "the formula is too long"
        raise ExpressionError(message)
    return tree


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, values)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, values)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, values), _value(right, values))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _BINARY[type(sign)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return float(_FUNCTIONS[name](*[_value(item, values) for item in args]))
        case _:
            pass
    message = "the formula may only have numbers, names of graders, arithmetic and a few functions"
    raise ExpressionError(message)


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MAX_POWER:
        message = f"an exponent is at most {MAX_POWER}"
        raise ExpressionError(message)
    value = base**exponent
    if isinstance(value, complex):
        message = "the formula has no real value"
        raise ExpressionError(message)
    return float(value)
