"""Jinja2 for HTML: every text is escaped, and control and direction characters are made visible by filters."""

from __future__ import annotations

from collections.abc import Callable

import jinja2

from ftpipe.formatting import count, format_decimal, format_money, format_time, plural, sanitize_block, sanitize_line

MAX_TEXT_CHARACTERS = 4000
"""Characters of one text in a page."""


def html_environment(read_template: Callable[[str], str]) -> jinja2.Environment:
    """An environment whose templates cannot make data active.

    Args:
        read_template: Returns the text of a template by its name.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(read_template),
    )
    environment.filters |= {
        "clean": sanitize_line,
        "block": truncated_block,
        "count": count,
        "decimal": format_decimal,
        "money": format_money,
        "moment": format_time,
        "plural": plural,
    }
    return environment


def truncated_block(text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Foreign text of several lines, truncated."""
    rest = len(text) - limit
    return sanitize_block(text[:limit]) + (f" … ({rest:,} more characters)" if rest > 0 else "")
