"""Conversion of records that were changed at random: an example of the API's form, or a named reason."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ftpipe.dataset.conversion.examples import read_example
from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers
from ftpipe.dataset.conversion.row import ConversionOptions, Row, SkipRow, UnmappedKey
from tests.dataset.conversion.test_reported_shapes import FORMATS, REPORTS

RECORDS = [case.record for case in [*REPORTS, *FORMATS]]
MESSAGE_KEYS = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "refusal"}
ROLES = {"system", "developer", "user", "assistant", "tool"}
ROUNDS = 3000


def keys_of(value: object) -> set[str]:
    """Every key in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


KEYS = sorted(keys_of(RECORDS))
VALUES: list[Any] = [
    *(None, "", 0, 1, -1, 1.5, True, False, [], {}, "x", "nan", "[", '{"a": 1}', [1], [[]], [{}], {"a": {}}, [None]),
    *('[{"role": "user", "content": "x"}]', "<tool_call></tool_call>", {"role": "user"}, {"parts": [1]}, [{"text": 1}]),
    *("[INST]", "\n\nHuman: a\n\nAssistant:", "### Instruction:\nx", *RECORDS),
]


def mutate(value: Any, choices: random.Random) -> Any:
    """A copy with values replaced, keys renamed or left out, and structures written as text."""
    if choices.random() < 0.12:
        return choices.choice(VALUES)
    if isinstance(value, dict):
        copied = {key: mutate(inner, choices) for key, inner in value.items() if choices.random() > 0.06}
        renamed = {choices.choice(KEYS) if choices.random() < 0.06 else key: inner for key, inner in copied.items()}
        return renamed | ({choices.choice(KEYS): choices.choice(VALUES)} if choices.random() < 0.1 else {})
    if isinstance(value, list):
        items = [mutate(item, choices) for item in value if choices.random() > 0.05]
        return json.dumps(items) if choices.random() < 0.05 else items
    return json.dumps(value) if choices.random() < 0.05 else value


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_records_become_examples_or_are_named(seed: int) -> None:
    choices = random.Random(seed)
    converted = 0
    for _ in range(ROUNDS):
        record = mutate(choices.choice(RECORDS), choices)
        if not isinstance(record, dict):
            continue
        written = json.dumps(record)
        options = ConversionOptions(reasoning=choices.choice(["", "think", "drop"]))
        row = Row(record, options, is_table=choices.random() < 0.3)
        try:
            example = read_example(row, LegacyMarkers(" ->", " ", " END"))
            row.key_counts()
        except SkipRow as skip:
            assert skip.reason
        except UnmappedKey as key:
            assert key.path
        else:
            converted += 1
            for message in example.messages:
                assert message["role"] in ROLES and message.keys() <= MESSAGE_KEYS, written
                assert isinstance(message.get("content", ""), str | list) or message["content"] is None, written
        assert json.dumps(record) == written
    assert converted > ROUNDS // 20
