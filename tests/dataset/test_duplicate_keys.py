"""Detection of lines in which an object contains a key twice."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.dataset.duplicate_keys import count_keys, lines_with_possible_duplicate_keys
from ftpipe.dataset.record_traits import UNUSUAL_KEYS
from ftpipe.dataset.scan import prefilter
from ftpipe.dataset.scan.scanner import line_offsets

WORDS = ("a", "b", 'a"', "a\\", ":", 'x":', '\\"', '": "', '":"', " : ", '{"a": 1}', "\\\\", "", "é", '"\t:')
SEPARATORS = (":", ": ", " :", "\t:\r", " : ")
MEMBERS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(SEPARATORS), st.sampled_from(WORDS), st.booleans()),
    max_size=5,
)


def to_json(members: list[tuple[str, str, str, bool]], *, ascii_only: bool) -> str:
    """A JSON object with these members: key, separator, text, and whether the text is inside a nested object."""
    parts = []
    for key, separator, text, is_nested in members:
        value = json.dumps(text, ensure_ascii=ascii_only)
        value = "{" + json.dumps(text) + separator + value + "}" if is_nested else value
        parts.append(json.dumps(key, ensure_ascii=ascii_only) + separator + value)
    return "{" + ", ".join(parts) + "}"


@pytest.mark.parametrize("is_marked", [True, False] if prefilter.is_available() else [False])
@given(lines=st.lists(MEMBERS, min_size=1, max_size=4), ascii_only=st.booleans())
def test_duplicate_keys_are_never_missed(
    is_marked: bool, lines: list[list[tuple[str, str, str, bool]]], ascii_only: bool
) -> None:
    """With the prefilter's marks and without them."""
    raws = [to_json(members, ascii_only=ascii_only).encode() for members in lines]
    data = b"\n".join(raws) + b"\n"
    keys = [count_keys(orjson.loads(raw)) for raw in raws]
    odd = None
    if is_marked:
        marks = prefilter.pop_auxiliary_marks(prefilter.compiled().find(data, line_offsets(raws)))
        odd = {index for index, names in marks.items() if UNUSUAL_KEYS in names}
    suspects = lines_with_possible_duplicate_keys(data, raws, keys, list(range(len(raws))), odd)
    repeated = {i for i, members in enumerate(lines) if len({m[0] for m in members}) < len(members)}
    assert repeated <= suspects


def test_duplicate_keys_not_suspected_in_usual_lines() -> None:
    """Also not if their texts contain JSON or code."""
    texts = ("Hi.", '{"a": 1, "b": {"c": 2}}', "f(a): return a", '"quoted": "')
    raws = [
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}).encode()
        for text in texts
    ]
    data = b"\n".join(raws) + b"\n"
    keys = [count_keys(orjson.loads(raw)) for raw in raws]
    assert keys == [5] * len(raws)
    assert lines_with_possible_duplicate_keys(data, raws, keys, list(range(len(raws))), None) == set()
