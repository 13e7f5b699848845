"""The type of a parsed JSON value of unknown shape."""

from __future__ import annotations

from typing import Any, TypeAlias

Json: TypeAlias = Any
"""``None``, a boolean, a number, a string, a list of such values, or a dictionary from strings to them."""
