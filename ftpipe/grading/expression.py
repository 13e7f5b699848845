"""Arithmetic expressions over named scores, as in ``calculate_output`` of a multi grader; nothing is run as code.

Why not simpleeval: it allows strings, comparisons, conditions and attributes unless each is switched off, and it does
not tell the names of graders from those of functions before it evaluates. Here an expression that is more than
arithmetic is refused before any score is computed, and its size and its exponents are bounded.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ftpipe.errors import FtpipeError

MAX_CHARACTERS = 1000
MAX_NODES = 200
MAX_EXPONENT = 64

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
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
    """An expression that is not arithmetic, or that has no value."""

    code = "invalid_expression"


class Expression:
    """An arithmetic expression.

    Args:
        text: ``+ - * / **``, parentheses, numbers, names, and min, max, abs, floor, ceil, exp, sqrt, log.

    Attributes:
        names: The names that need a value.

    Raises:
        ExpressionError: The text is something else, or too long.
    """

    def __init__(self, text: str) -> None:
        self._tree = _parse(text)
        self.names = _check(self._tree)

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The value of the expression.

        Raises:
            ExpressionError: It has no finite value, or a name has none.
        """
        try:
            value = float(_value(self._tree, values))
        except (ArithmeticError, ValueError, TypeError, KeyError) as exc:
            message = f"the expression has no value: {exc}"
            raise ExpressionError(message) from exc
        if not math.isfinite(value):
            message = "the expression has no finite value"
            raise ExpressionError(message)
        return value


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        message = f"an expression has at most {MAX_CHARACTERS} characters"
        raise ExpressionError(message)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        message = "the expression is not valid"
        raise ExpressionError(message) from exc
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        message = "the expression is too long"
        raise ExpressionError(message)
    return tree


def _check(node: ast.expr) -> frozenset[str]:
    """The names in an expression; anything that is not arithmetic is refused."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and _is_finite(number):
            return frozenset()
        case ast.Name(id=name):
            return frozenset({name})
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _check(operand)
        case ast.BinOp(left=left, op=sign, right=right) if isinstance(sign, ast.Pow) or type(sign) in _OPERATORS:
            return _check(left) | _check(right)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in FUNCTIONS:
            return frozenset().union(*(_check(argument) for argument in args))
        case _:
            message = f"only numbers, names of graders, + - * / **, parentheses and {', '.join(FUNCTIONS)} are allowed"
            raise ExpressionError(message)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond the range of float
        return False


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    """The value of an expression that ``_check`` has accepted."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=sign, operand=operand):
            return -_value(operand, values) if isinstance(sign, ast.USub) else _value(operand, values)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, values), _value(right, values))
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATORS[type(sign)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(FUNCTIONS[name](*[_value(argument, values) for argument in args]))
        case _:
            raise TypeError(type(node).__name__)


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MAX_EXPONENT:
        message = f"an exponent is at most {MAX_EXPONENT}"
        raise ValueError(message)
    value = base**exponent
    if isinstance(value, complex):
        message = "a power is not a real number"
        raise TypeError(message)
    return float(value)
