"""Canonical JSON: the same bytes for the same value, and other bytes for another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.canonical_json import canonical_json

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec=None))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@given(VALUES)
def test_canonical_json_preserves_value(value: Any) -> None:
    """Also unpaired surrogates and integers beyond 64 bits; so two values never have the same bytes."""
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), VALUES, min_size=2))
def test_canonical_json_ignores_key_order(value: dict[str, Any]) -> None:
    """At any level."""
    turned = dict(reversed(value.items()))
    assert canonical_json([turned]) == canonical_json([value])


def test_canonical_json_is_compact_utf8() -> None:
    """The form is fixed: digests that are stored rest on it."""
    assert canonical_json({"b": [1, 1.0, True, None], "a": "é"}) == '{"a":"é","b":[1,1.0,true,null]}'.encode()
    assert canonical_json({"b": "\ud800", "a": 2**70}) == b'{"a":1180591620717411303424,"b":"\\ud800"}'


def test_canonical_json_rejects_other_values() -> None:
    """Nothing is turned into text unasked."""
    with pytest.raises(TypeError):
        canonical_json({"a": object()})
