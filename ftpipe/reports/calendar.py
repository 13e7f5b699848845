"""Write the days on which models are shut down as an iCalendar file (RFC 5545)."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

MAX_LINE_BYTES = 75
"""Without the line break; longer lines are folded. Source: RFC 5545, section 3.1."""
REMINDER_DAYS = (30, 7, 1)
"""How many days before an event calendars remind of it."""


@dataclass(frozen=True)
class CalendarEvent:
    """An event of one whole day."""

    key: str
    """The same key makes the same UID, so that a new file updates the event and does not double it."""
    day: dt.date
    summary: str
    description: str


def calendar_document(events: Iterable[CalendarEvent], *, now: dt.datetime) -> bytes:
    """The file, in UTF-8 with CRLF.

    Args:
        events: The events.
        now: When the file is made, in UTC.
    """
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//ftpipe//models inventory//EN", "CALSCALE:GREGORIAN"]
    for event in events:
        lines += _event_lines(event, now)
    lines.append("END:VCALENDAR")
    return "".join(f"{fold(line)}\r\n" for line in lines).encode()


def _event_lines(event: CalendarEvent, now: dt.datetime) -> list[str]:
    summary = escape(event.summary)
    lines = [
        "BEGIN:VEVENT",
        f"UID:{hashlib.sha256(event.key.encode()).hexdigest()[:32]}@ftpipe",
        f"DTSTAMP:{now.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}",
        f"DTSTART;VALUE=DATE:{event.day:%Y%m%d}",
        f"DTEND;VALUE=DATE:{event.day + dt.timedelta(days=1):%Y%m%d}",
        f"SUMMARY:{summary}",
        f"DESCRIPTION:{escape(event.description)}",
        "TRANSP:TRANSPARENT",
    ]
    for days in REMINDER_DAYS:
        lines += ["BEGIN:VALARM", "ACTION:DISPLAY", f"DESCRIPTION:{summary}", f"TRIGGER:-P{days}D", "END:VALARM"]
    return [*lines, "END:VEVENT"]


def escape(text: str) -> str:
    """Text as a value: backslash, semicolon, comma and line breaks are escaped, other control characters removed."""
    for plain, escaped in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\r\n", "\\n"), ("\n", "\\n"), ("\r", "\\n")):
        text = text.replace(plain, escaped)
    return "".join(char for char in text if char >= " " and char != "\x7f")


def fold(line: str) -> str:
    """A line in parts of at most 75 bytes, the later ones after a space; no character is broken."""
    parts, current, used = [], "", 0
    for char in line:
        size = len(char.encode("utf-8", "replace"))
        if used + size > MAX_LINE_BYTES:
            parts.append(current)
            current, used = " ", 1
        current, used = current + char, used + size
    return "\r\n".join([*parts, current])
