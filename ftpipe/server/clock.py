"""The wall clock, in the whole seconds that the API speaks in."""

from __future__ import annotations

import time


def now() -> int:
    """UTC Unix seconds."""
    return int(time.time())
