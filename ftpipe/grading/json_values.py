"""Parse and compare JSON values: what graders and metrics call "the same document"."""

from __future__ import annotations

import json
import math
from typing import Any

from ftpipe.canonical_json import canonical_json


class Missing:
    """Stands for "there is no JSON value", which is not the same as ``null``."""


MISSING = Missing()

HUGE_NUMBER = 10**400
"""Replaces a number such as 1e999, which Python parses as infinity and JSON cannot write."""

MAX_DEPTH = 100
"""Levels of nesting that are accepted as JSON."""


def parse_json(text: str) -> Any:  # noqa: ANN401  # any JSON value
    """The JSON value of a text, or ``MISSING``; NaN, Infinity and deeper nesting than ``MAX_DEPTH`` are not JSON."""
    try:
        value = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return MISSING
    return MISSING if _is_too_deep(value) else value


def _is_too_deep(value: Any) -> bool:  # noqa: ANN401  # any JSON value
    """Whether the nesting is too deep for an answer, and for recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            part
            for one in level
            if isinstance(one, (dict, list))
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _reject_constant(name: str) -> Any:  # noqa: ANN401  # json's own signature
    raise ValueError(name)


def comparable(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """The same text for equal JSON values: keys are sorted, 1.0 equals 1, and true differs from 1."""
    return canonical_json(_plain(value)).decode() if value is not MISSING else "missing"


def _plain(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return HUGE_NUMBER if value > 0 else -HUGE_NUMBER
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
