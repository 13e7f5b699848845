"""Canonical JSON: the same bytes for the same value, for digests."""

from __future__ import annotations

import json

import orjson


def canonical_json(value: object) -> bytes:
    """A JSON value with sorted keys and without whitespace, in UTF-8.

    NaN and infinities are not JSON values and are written as null.

    Raises:
        TypeError: The value contains something that JSON cannot represent.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits, unpaired surrogates and deep nesting, which orjson rejects.
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
