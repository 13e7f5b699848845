"""Long lines fold at words under their text, with colour and wide characters counted as they show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftpipe.cli.wrapping import columns, wrap_line


def test_a_short_line_stays() -> None:
    """Nothing is touched that fits."""
    assert wrap_line("  a  b", 40) == ["  a  b"]


def test_a_labelled_text_goes_on_under_its_text() -> None:
    """The label's column stays free."""
    assert wrap_line("✓ python     one two three four", 28) == ["✓ python     one two three", "             four"]


def test_other_lines_go_on_two_columns_further_in() -> None:
    """So that a continuation is seen as one."""
    assert wrap_line("one two three four", 10) == ["one two", "  three", "  four"]


def test_colour_takes_no_room() -> None:
    """An escape sequence has no width."""
    painted = "\x1b[31mone\x1b[0m two"
    assert columns(painted) == 7
    assert wrap_line(painted, 7) == [painted]


def test_wide_characters_take_two_columns() -> None:
    """世 fills two, a combining accent none."""
    assert (columns("世界"), columns("e\u0301")) == (4, 1)


@given(st.text(st.characters(categories=["L", "N", "Zs"]), max_size=300), st.integers(40, 120))
def test_no_word_is_lost(line: str, width: int) -> None:
    """Folding changes white space alone."""
    assert " ".join(wrap_line(line, width)).split() == line.split()
