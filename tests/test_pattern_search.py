"""Patterns from data are searched in bounded time and memory, whatever they are."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from ftpipe.pattern_search import PatternLimitError, is_valid_pattern, matches_pattern, repeated_size

SLOW = "a" * 40 + "!"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^(a+)+$", SLOW),
        (r"^(a|a)*$", SLOW),
        (r"^(a|aa)+$", "a" * 5000 + "!"),
        (r"(x+x+)+y", "x" * 5000),
        (r"(.*)*(.*)*(.*)*z", "x" * 5000),
        (r"\s+$", " " * 200_000 + "x"),
    ],
)
def test_pattern_search_nested_quantifiers_run_in_linear_time(pattern: str, text: str) -> None:
    started_at = time.thread_time()
    assert not matches_pattern(pattern, text)
    assert time.thread_time() - started_at < 1


@pytest.mark.parametrize("pattern", [r"^(a|a)*(?!b)$", r"^(?:(?=a)a|a)*$", r"(a(?R)?b?)+c", r"(a*)*\1x(?=y)"])
def test_pattern_search_with_look_around_ends_at_its_time_limit(pattern: str) -> None:
    started_at = time.thread_time()
    with contextlib.suppress(PatternLimitError):
        assert not matches_pattern(pattern, "a" * 2000 + "!")
    assert time.thread_time() - started_at < 2


def test_pattern_search_huge_repetitions_take_no_memory() -> None:
    """The regex package alone takes gigabytes for the last pattern."""
    script = """
import resource
from ftpipe.pattern_search import PatternLimitError, is_valid_pattern, matches_pattern
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
nested = "(" * 6 + "a" + "{999})" * 6
for pattern in ("(?:a{1000}){1000}", "((a{0,50}){0,50}){0,50}(?=b)", nested + "(?=b)"):
    try:
        matches_pattern(pattern, "a" * 5000)
    except PatternLimitError:
        print(is_valid_pattern(pattern))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["True", "True", "True"]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"^x", "xa", True),
        (r"^\d{4}-\d{2}$", "2026-11", True),
        (r"\p{L}+", "é", True),
        (r"(?<name>a)", "a", True),
        (r"^(?!no).*$", "no", False),
        (r"^(?!no).*$", "yes", True),
        (r"(a)\1", "aa", True),
        (r"^[^[]+$", "a", True),
        (r"\/", "/", True),
        (r"a{", "a{", True),
    ],
)
def test_pattern_search_reads_usual_patterns(pattern: str, text: str, *, expected: bool) -> None:
    assert is_valid_pattern(pattern)
    assert matches_pattern(pattern, text) is expected


@pytest.mark.parametrize("pattern", ["[a", "(", "(?P<", "*a", "a**b("])
def test_pattern_search_names_invalid_patterns(pattern: str) -> None:
    assert not is_valid_pattern(pattern)
    with pytest.raises(ValueError, match="regular expression"):
        matches_pattern(pattern, "a")


@pytest.mark.parametrize("pattern", ["(" * 900 + ")" * 900, "a{99999999999999999999}", "a" * 5000, "[" * 1000, ")" * 9])
def test_pattern_search_odd_patterns_raise_nothing_else(pattern: str) -> None:
    is_valid_pattern(pattern)
    with contextlib.suppress(PatternLimitError, ValueError):
        matches_pattern(pattern, "a")


@pytest.mark.parametrize(
    ("pattern", "size"), [("abc", 3), ("a{3}", 3), ("(ab){2,5}", 10), ("((a{10}){10}){10}", 1000), (r"\{3}", 3)]
)
def test_repeated_size_multiplies_nested_counts(pattern: str, size: int) -> None:
    assert repeated_size(pattern) == size
