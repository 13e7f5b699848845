"""Canonical JSON: the same bytes for the same value, which is what digests are made of."""

from __future__ import annotations

import json

import orjson


def canonical_json(value: object) -> bytes:
    """A JSON value with sorted keys and without blanks, in UTF-8.

    NaN and infinities are no JSON values and are written as null.

    Raises:
        TypeError: The value, or something in it, has no form in JSON.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        # Whole numbers beyond 64 bits, unpaired surrogates and deep nesting, which orjson refuses.
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
