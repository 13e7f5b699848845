"""The wall clock, in the whole seconds of the API."""

from __future__ import annotations

import datetime as dt
import time


def now() -> int:
    """UTC Unix seconds."""
    return int(time.time())


def today() -> dt.date:
    """The current day, UTC."""
    return dt.datetime.now(tz=dt.UTC).date()
