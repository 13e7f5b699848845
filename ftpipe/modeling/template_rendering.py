"""Render chat templates in a sandbox with limits: a template comes with a model and is not trusted.

The environment is that of ``transformers``: a sandbox with the same filters, functions and whitespace rules.
Source: transformers 5, ``utils/chat_template_utils.py``, read 2026-11-24. That one has no limits: a template with two
nested loops over ``range(99999)`` is rendered for hours. Here every pass of a loop, call and filter is a step.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ftpipe.modeling.chat_messages import ChatTemplateError

MAX_STEPS = 1_000_000
"""Passes of loops, calls and filters in one rendering; a conversation of 1,000 messages takes some 10,000."""
MAX_CPU_SECONDS = 20.0
"""Processor time of one rendering."""
MAX_CHARACTERS = 64_000_000
"""Length of a text, also of all output together."""
MAX_NUMBER = 1_000_000
"""Largest number that a call or a filter takes, for example as a width, and largest factor of a repetition."""
_WIDE_FORMAT = re.compile(r"\d{7}")


class _Limits(threading.local):
    """What the rendering in this thread may still do."""

    def start(self) -> None:
        self.steps = 0
        self.characters = 0
        self.deadline = time.thread_time() + MAX_CPU_SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS or time.thread_time() > self.deadline:
            raise _too_much(f"takes more than {MAX_STEPS} steps or {MAX_CPU_SECONDS:.0f} s")

    def add_output(self, text: str) -> str:
        self.characters += len(text)
        if self.characters > MAX_CHARACTERS:
            raise _too_much(f"writes more than {MAX_CHARACTERS} characters")
        return text


_limits = _Limits()


def render_chat_template(source: str, variables: Mapping[str, Any]) -> str:
    """The text of a chat template.

    Args:
        source: The template.
        variables: What it can use.

    Raises:
        ChatTemplateError: The template is wrong, rejects the conversation, or exceeds a limit.
    """
    _limits.start()
    try:
        return _compile(source).render(variables)
    except (TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError) as exc:
        raise ChatTemplateError(str(exc) or type(exc).__name__) from exc
    except (RecursionError, MemoryError) as exc:
        message = "it is nested too deeply or needs too much memory"
        raise ChatTemplateError(message, "choose another base model") from exc


def _too_much(what: str) -> ChatTemplateError:
    return ChatTemplateError(f"the chat template {what}", "choose another base model, or a shorter conversation")


def _checked_size(value: Any) -> Any:  # noqa: ANN401  # whatever a template computes
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise _too_much(f"makes a text of more than {MAX_CHARACTERS} characters")
    return value


def _check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise _too_much(f"uses a number above {MAX_NUMBER}")


def _count_passes(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        _limits.step()
        yield item


def _limited_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # also copies how jinja passes its context
    def limited(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # as the filter
        _limits.step()
        _check_numbers([*args[1:], *kwargs.values()])
        if function.__name__ == "do_format" and _WIDE_FORMAT.search(str(args[0])):
            raise _too_much(f"uses a number above {MAX_NUMBER}")
        return _checked_size(function(*args, **kwargs))

    return limited


def _check_operands(operator: str, left: Any, right: Any) -> None:  # noqa: ANN401  # whatever a template computes
    sized = isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple)
    if operator == "*" and sized:
        length, factor = (len(left), right) if hasattr(left, "__len__") else (len(right), left)
        if isinstance(factor, int) and length * factor > MAX_NUMBER:
            raise _too_much(f"repeats something more than {MAX_NUMBER} times")
    elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        _check_numbers((left, right))
        if operator == "**" and left.bit_length() * right > MAX_NUMBER:
            raise _too_much(f"uses a number above {MAX_NUMBER}")
    elif operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
        raise _too_much(f"uses a number above {MAX_NUMBER}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """``{% generation %}`` marks the trained part; only its contents are rendered here."""

    tags = {"generation"}  # noqa: RUF012  # required by jinja

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block as if the tag were absent."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _CountSteps(NodeTransformer):
    """Wraps what can grow: the passes of loops, joined texts, and output."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "count_passes")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "checked_size")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filtered(_as_constant(part), "add_output") for part in node.nodes]
        return node


def _as_constant(node: nodes.Expr) -> nodes.Expr:
    return nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node


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
        _check_numbers([*args, *kwargs.values()])
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and _WIDE_FORMAT.search(owner) and "format" in getattr(function, "__name__", ""):
            raise _too_much(f"uses a number above {MAX_NUMBER}")
        return _checked_size(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401  # as jinja
        """Compute an operator of a template."""
        _check_operands(operator, left, right)
        return _checked_size(super().call_binop(context, operator, left, right))


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    """The template in an environment like that of ``transformers``, with every loop, call and output counted."""
    environment = _LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters |= {name: _limited_filter(function) for name, function in environment.filters.items()}
    environment.filters |= {
        # With a context they are not computed when the template is compiled, but each time.
        "count_passes": pass_context(lambda _context, iterable: _count_passes(iterable)),
        "checked_size": pass_context(lambda _context, value: _checked_size(value)),
        "add_output": pass_context(lambda _context, value: _limits.add_output(str(value))),
    }
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda pattern: datetime.now().astimezone().strftime(pattern),
    }
    return environment.from_string(source)
