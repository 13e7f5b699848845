"""Render chat templates in a sandbox with limits: a template comes with a model and is not trusted.

The environment is that of ``transformers``: a sandbox with the same filters, functions and whitespace rules.
Source: transformers 5, ``utils/chat_template_utils.py``, read 2026-11-24. That one has no limits: a template with two
nested loops over ``range(99999)`` is rendered for hours. Here every pass of a loop, call and filter is a step, and what
a call would take is estimated before it: see ``template_limits``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.modeling.template_limits import (
    MAX_NUMBER,
    MAX_TEMPLATE_CHARACTERS,
    Limits,
    check_format,
    check_length,
    check_numbers,
    check_text_call,
    too_much,
)

_WIDTH = re.compile(r"%\D?\d")
MAX_DATE_FORMAT_CHARACTERS = 100
MAX_INDENT = 16
_SLOW_FILTERS = frozenset({"pprint", "striptags", "title", "truncate", "urlencode", "urlize", "wordcount", "wordwrap"})
"""Their time grows with the square of the text, or they are slow; chat templates have no use for them."""
MAX_SLOW_FILTER_CHARACTERS = 10_000
_LAZY_FILTERS = frozenset({"map", "select", "reject", "selectattr", "rejectattr", "default", "d"})
"""They do not walk through an iterator themselves."""

_limits = Limits()


def render_chat_template(source: str, variables: Mapping[str, Any]) -> str:
    """The text of a chat template.

    Args:
        source: The template.
        variables: What it can use.

    Raises:
        ChatTemplateError: The template is wrong, rejects the conversation, or exceeds a limit.
    """
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise too_much(f"has more than {MAX_TEMPLATE_CHARACTERS} characters")
    _limits.start()
    try:
        return _compile(source).render(variables)
    except (TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError) as exc:
        raise ChatTemplateError(str(exc) or type(exc).__name__) from exc
    except (RecursionError, MemoryError) as exc:
        message = "it is nested too deeply or needs too much memory"
        raise ChatTemplateError(message, "choose another base model") from exc


def _limited_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    is_lazy = name in _LAZY_FILTERS
    with_context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # also copies how jinja passes its context
    def limited(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # as the filter
        _limits.step()
        passed, values = (list(args[:1]), list(args[1:])) if with_context else ([], list(args))
        if values and isinstance(values[0], Iterator) and not is_lazy:
            values[0] = list(_limits.count_passes(values[0]))
        _check_filter(name, values, kwargs)
        return _limits.checked_result(function(*passed, *values, **kwargs))

    return limited


def _check_filter(name: str, values: list[Any], named: Mapping[str, Any]) -> None:
    arguments = [*values[1:], *named.values()]
    check_numbers(arguments)
    for value in (*values, *arguments):
        _limits.check_value(value)
    first: Any = values[0] if values else ""
    if name in _SLOW_FILTERS and _limits.size(first) > MAX_SLOW_FILTER_CHARACTERS:
        raise too_much(f"uses the filter {name} for more than {MAX_SLOW_FILTER_CHARACTERS} characters")
    if name in ("string", "join", "replace", "tojson", "upper", "lower"):
        _limits.size(first)
    if name == "format":
        check_format(str(first), "%", tuple(arguments), _limits)
    elif name == "join":
        check_text_call(next((each for each in arguments if isinstance(each, str)), ""), "join", [first], _limits)
    elif name in ("replace", "trim"):
        method = "strip" if name == "trim" else name
        check_text_call(_limits.to_text(first), method, [_limits.to_text(each) for each in arguments[:2]], _limits)
    elif name == "indent":
        width = max((len(each) if isinstance(each, str) else int(each) for each in arguments), default=4)
        check_length((str(first).count("\n") + 1) * width)
    elif name == "wordwrap" and any(isinstance(each, str) for each in arguments):
        raise too_much("joins wrapped lines with a text of its own")
    elif name == "sum" and any(isinstance(each, list | tuple) for each in arguments):
        raise too_much("adds lists")


def _limited_test(function: Any) -> Callable[..., Any]:  # noqa: ANN401  # jinja gives its tests no type
    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # as the test
        _limits.step()
        for value in (*args, *kwargs.values()):
            _limits.check_value(value)
        return function(*args, **kwargs)

    return limited


def _check_operands(operator: str, left: Any, right: Any) -> None:  # noqa: ANN401  # whatever a template computes
    sized = isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple)
    if operator == "*" and sized:
        length, factor = (len(left), right) if hasattr(left, "__len__") else (len(right), left)
        if isinstance(factor, int) and length * factor > MAX_NUMBER:
            raise too_much(f"repeats something more than {MAX_NUMBER} times")
    elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        check_numbers((left, right))
        if operator == "**" and left.bit_length() * right > MAX_NUMBER:
            raise too_much(f"uses a number above {MAX_NUMBER}")
    elif operator == "%" and isinstance(left, str):
        check_format(left, "%", right, _limits)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    if indent is not None and (not isinstance(indent, int) or indent > MAX_INDENT or _limits.size(value) > MAX_NUMBER):
        raise too_much(f"indents JSON by more than {MAX_INDENT}, or more than {MAX_NUMBER} characters of it")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """``{% generation %}`` marks the trained part; only its contents are rendered here."""

    tags = {"generation"}  # noqa: RUF012  # required by jinja

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block as if the tag were absent."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > MAX_DATE_FORMAT_CHARACTERS or _WIDTH.search(pattern):
        raise too_much("has a long date format")
    return datetime.now().astimezone().strftime(pattern)


class _CountSteps(NodeTransformer):
    """Wraps what can grow or take long: the passes of loops, joined texts, comparisons, keys, and output."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "count_passes")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        first, *rest = node.nodes
        return nodes.Filter(first, "concat", rest, [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _checked(node.expr)
        for operand in node.ops:
            operand.expr = _checked(operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _checked(node.key)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filtered(_as_constant(part), "add_output") for part in node.nodes]
        return node


def _as_constant(node: nodes.Expr) -> nodes.Expr:
    return nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node


def _checked(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filtered(node, "checked_value")


def _filtered(node: Any, name: str) -> nodes.Expr:  # noqa: ANN401  # jinja's types are too wide here
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Counts calls and checks operands."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _CountSteps().visit(super()._parse(source, name, filename))
        return template.set_environment(self)  # type: ignore[return-value]  # the template itself

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # as jinja
        """Call a function of a template."""
        _limits.step()
        check_numbers([*args, *kwargs.values()])
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str) and name == "join" and args and isinstance(args[0], Iterator):
            args = (list(_limits.count_passes(args[0])), *args[1:])
        if not isinstance(function, Macro):
            for value in (owner, *args, *kwargs.values()):
                _limits.check_value(value)
        if isinstance(owner, str):
            check_text_call(owner, name, [*args, *kwargs.values()], _limits)
        return _limits.checked_result(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401  # as jinja
        """Compute an operator of a template."""
        _check_operands(operator, left, right)
        return _limits.checked_result(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: ANN401  # as jinja
        """Look something up; a tuple in a tuple in a tuple can take hours to hash."""
        _limits.check_value(argument)
        return super().getitem(obj, argument)


def _checked_value(_context: object, value: Any) -> Any:  # noqa: ANN401  # whatever a template computes
    _limits.check_value(value)
    return value


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    """The template in an environment like that of ``transformers``, with every loop, call and output counted."""
    environment = _LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters |= {name: _limited_filter(name, each) for name, each in environment.filters.items()}
    environment.tests |= {name: _limited_test(each) for name, each in environment.tests.items()}
    environment.filters |= {
        # With a context they are not computed when the template is compiled, but each time.
        "count_passes": pass_context(lambda _context, iterable: _limits.count_passes(iterable)),
        "checked_value": pass_context(_checked_value),
        "concat": pass_context(lambda _context, *parts: _limits.join(parts)),
        "add_output": pass_context(lambda _context, value: _limits.add_output(value)),
    }
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    del environment.globals["lipsum"]
    return environment.from_string(source)
