"""Text that no terminal obeys, and numbers as people read them."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.formatting import (
    columns,
    cut_line,
    duration,
    fit_table,
    format_bytes,
    format_decimal,
    format_money,
    format_table,
    format_time,
    plural,
    sanitize_block,
    sanitize_line,
    wrap_line,
)


@pytest.mark.parametrize(
    "payload",
    [
        "\x1b]0;owned\x07",
        "\x1b[2J\x1b[H",
        "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
        "\x9b31m",
        "\x90q\x9c",
        "a\rb",
        "a\x08b",
        "\u202eevil\u202c",
        "\u2066x\u2069",
        "\u2028",
        "\ud800",
    ],
)
def test_sanitize_neutralizes_terminal_controls(payload: str) -> None:
    """Controls, escape sequences, direction marks and surrogates are shown, not sent."""
    shown = sanitize_line(payload) + sanitize_block(payload)
    assert not [char for char in shown if char != "\n" and unicodedata.category(char) in {"Cc", "Cs"}]
    assert not set(shown) & set("\u202e\u202c\u2066\u2069\u2028")
    assert shown.encode("utf-8")


@given(st.text(st.characters(), max_size=200))
def test_sanitize_line_makes_one_safe_line(text: str) -> None:
    """Whatever the data hold, the line is printable and stays a line."""
    shown = sanitize_line(text, 80)
    assert len(shown) <= 80 * 8
    assert "\n" not in shown
    shown.encode("utf-8")
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)


def test_sanitize_leaves_plain_text_unchanged() -> None:
    """Letters of every script and emoji are not touched."""
    text = "Grüße, 世界 🙂 [bold]not markup[/bold]"
    assert sanitize_line(text) == text
    assert sanitize_block(f"{text}\n{text}") == f"{text}\n{text}"


def test_sanitize_line_cuts_with_ellipsis() -> None:
    """A million characters cost no more than the limit."""
    assert sanitize_line("x" * 1_000_000, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0.0, "0.00 USD"), (0.00001, "<0.0001 USD"), (0.0042, "0.0042 USD"), (1234.5, "1,234.50 USD"), (None, "unknown"),
     (math.nan, "unknown")],
)  # fmt: skip
def test_format_money_digits(amount: float | None, expected: str) -> None:
    """Cents are not lost, and an unknown amount says so."""
    assert format_money(amount) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (80, "1 min 20 s"),
        (3600, "1 h"),
        (4000, "1 h 6 min"),
        (90_000, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_duration_has_at_most_two_units(seconds: float, expected: str) -> None:
    """The smaller units say nothing in a long span."""
    assert duration(seconds) == expected


def test_format_sizes_counts_and_times() -> None:
    """Decimal units, thousands apart, and no calendar that overflows."""
    assert [format_bytes(512), format_bytes(48_200), format_bytes(10**9), format_bytes(10**13)] == [
        "512 B",
        "48.2 kB",
        "1.0 GB",
        "10.0 TB",
    ]
    assert [plural(1, "line"), plural(2000, "line"), plural(0, "entry", "entries")] == [
        "1 line",
        "2,000 lines",
        "0 entries",
    ]
    assert format_time(0) == "1970-01-01 00:00 UTC"
    assert format_time(10**18) == format_time(None) == "–"
    assert [format_decimal(1.23456), format_decimal(None), format_decimal(math.inf)] == ["1.2346", "–", "–"]


def test_format_table_aligns_ragged_rows() -> None:
    """Columns are as wide as their widest cell; nothing stands at a line's end."""
    assert format_table([("a", "1"), ("bb", "22", "x"), ()], right=(1,)) == ["a    1", "bb  22  x", ""]


def test_wrap_line_keeps_a_short_line() -> None:
    assert wrap_line("  a  b", 40) == ["  a  b"]


def test_wrap_line_continues_under_the_labelled_text() -> None:
    assert wrap_line("✓ python     one two three four", 28) == ["✓ python     one two three", "             four"]


def test_wrap_line_indents_continuation_lines() -> None:
    assert wrap_line("one two three four", 10) == ["one two", "  three", "  four"]


def test_wrap_line_does_not_count_colour() -> None:
    painted = "\x1b[31mone\x1b[0m two"
    assert columns(painted) == 7
    assert wrap_line(painted, 7) == [painted]


def test_columns_counts_wide_characters_as_two() -> None:
    assert (columns("世界"), columns("e\u0301")) == (4, 1)


@given(st.text(st.characters(categories=["L", "N", "Zs"]), max_size=300), st.integers(40, 120))
def test_wrap_line_keeps_every_word(line: str, width: int) -> None:
    assert " ".join(wrap_line(line, width)).split() == line.split()


TABLE = [
    ("job", "status", "base", "model"),
    ("ftjob-1", "succeeded", "small", "ft:small:1"),
    ("ftjob-2", "failed", "small", ""),
]


def test_table_leaves_out_columns_that_do_not_fit() -> None:
    assert fit_table(TABLE, width=None, drop=(2,)) == format_table(TABLE)
    assert fit_table(TABLE, width=30, drop=(2,)) == format_table([(row[0], row[1], row[3]) for row in TABLE])


def test_table_becomes_a_list_if_no_columns_are_left_to_drop() -> None:
    """Labels stay beside their values, and empty values are left out."""
    lines = fit_table(TABLE, width=29, drop=(2,))
    assert lines == [
        "ftjob-1",
        "  status succeeded",
        "  base small",
        "  model ft:small:1",
        "ftjob-2",
        "  status failed · base small",
    ]


@pytest.mark.parametrize(("text", "cut"), [("abcd", "abcd"), ("abcde", "abc…"), ("日本語", "日…"), ("ab de", "ab…")])
def test_cut_line(text: str, cut: str) -> None:
    assert cut_line(text, 4) == cut
    assert cut_line(text, None) == text


def test_wrapped_line_keeps_short_values_beside_equals_signs() -> None:
    assert wrap_line("McNemar p = 1, n = 12", 12) == ["McNemar", "  p = 1,", "  n = 12"]
