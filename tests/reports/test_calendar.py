"""iCalendar files: lines of 75 bytes, escaped text, stable ids."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from ftpipe.reports.calendar import MAX_LINE_BYTES, CalendarEvent, calendar_document, escape, fold

NOW = dt.datetime(2026, 12, 20, 13, 5, tzinfo=dt.timezone(dt.timedelta(hours=1)))
EVENT = CalendarEvent("key", dt.date(2026, 12, 31), "Shut down: a, b; c\\d", "first\nsecond")


def test_calendar_document_has_the_form_of_rfc_5545() -> None:
    lines = calendar_document([EVENT], now=NOW).decode().split("\r\n")
    assert "DTSTAMP:20261220T120500Z" in lines
    assert "DTSTART;VALUE=DATE:20261231" in lines
    assert "DTEND;VALUE=DATE:20270101" in lines
    assert "SUMMARY:Shut down: a\\, b\\; c\\\\d" in lines
    assert "DESCRIPTION:first\\nsecond" in lines
    assert lines.count("BEGIN:VALARM") == lines.count("END:VALARM") == 3
    assert (lines[0], lines[-2], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR", "")


def test_calendar_event_keeps_its_uid() -> None:
    def uid(event: CalendarEvent) -> str:
        lines = calendar_document([event], now=NOW).decode().split("\r\n")
        return next(line for line in lines if line.startswith("UID:"))

    other = CalendarEvent("key", dt.date(2027, 1, 1), "another", "text")
    assert uid(EVENT) == uid(other)
    assert uid(EVENT) != uid(CalendarEvent("key 2", EVENT.day, EVENT.summary, EVENT.description))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_fold_keeps_text_and_limit(text: str) -> None:
    line = f"SUMMARY:{escape(text)}"
    folded = fold(line)
    assert "\n" not in line and "\r" not in line
    assert folded.replace("\r\n ", "") == line
    assert all(len(part.encode()) <= MAX_LINE_BYTES for part in folded.split("\r\n"))
