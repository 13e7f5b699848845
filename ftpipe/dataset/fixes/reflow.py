"""Reads the records of text that is JSON, but not one record per line."""

from __future__ import annotations

import json
from typing import Any


def records_in(text: str) -> list[Any]:
    """The records of a JSON array, of pretty-printed JSON, or of several values on a line; maybe none."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    at = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            return []
        found.append(value)
    if len(found) == 1 and isinstance(found[0], list):
        return found[0]
    return found
