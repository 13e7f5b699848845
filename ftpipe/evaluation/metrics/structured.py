"""Structured metrics: JSON documents compared by field, tool calls by name and arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ftpipe.errors import UsageError
from ftpipe.grading.json_values import MISSING, comparable, parse_json
from ftpipe.records.evaluation import Answer, Item, ToolCall


def json_valid(_item: Item, answer: Answer) -> float:
    """1 if the answer is valid JSON."""
    return float(parse_json(answer.text) is not MISSING)


def json_match(item: Item, answer: Answer) -> float:
    """1 if the answer is the expected document; the order of keys and white space are ignored."""
    value = parse_json(answer.text)
    return float(value is not MISSING and comparable(value) == comparable(parse_json(item.expected)))


def json_fields(item: Item, answer: Answer) -> float:
    """Share of all values in either document that are equal in both; an additional field lowers the score."""
    expected = dict(_leaves(parse_json(item.expected)))
    actual = dict(_leaves(parse_json(answer.text)))
    paths = expected.keys() | actual.keys()
    equal = sum(path in expected and path in actual and expected[path] == actual[path] for path in paths)
    return equal / len(paths)


def matching_fields(item: Item, answer: Answer) -> dict[str, bool]:
    """Expected top-level field → whether the answer has the same value."""
    expected, actual = parse_json(item.expected), parse_json(answer.text)
    if not isinstance(expected, dict):
        return {}
    actual = actual if isinstance(actual, dict) else {}
    return {name: name in actual and comparable(actual[name]) == comparable(value) for name, value in expected.items()}


def schema_check(schema: dict[str, Any]) -> Any:  # noqa: ANN401  # a metric function
    """A metric that is 1 if the answer is JSON that matches the schema.

    References to other documents are not resolved, so no schema can make ftpipe fetch anything.

    Raises:
        UsageError: The schema itself is not valid.
    """
    from ftpipe.json_schema import InvalidSchemaError, JsonSchema, SchemaLimitError

    try:
        compiled = JsonSchema(schema, use_declared_draft=True)
    except (InvalidSchemaError, SchemaLimitError) as exc:
        raise UsageError(f"the JSON schema is not valid: {exc}", "correct the file given by --schema") from exc

    def schema_valid(_item: Item, answer: Answer) -> float:
        """1 if the answer is JSON that matches the schema."""
        value = parse_json(answer.text)
        try:
            return float(value is not MISSING and compiled.first_violation(value) is None)
        except SchemaLimitError as exc:
            raise UsageError(f"an answer cannot be checked against the JSON schema: {exc}", "simplify it") from exc

    return schema_valid


def tool_choice(item: Item, answer: Answer) -> float:
    """1 if the model calls a tool when one is expected, and none when none is expected."""
    return float(bool(answer.tool_calls) == bool(item.expected_calls))


def tool_name(item: Item, answer: Answer) -> float:
    """1 if the expected tools were called, in any order."""
    return float(Counter(call.name for call in answer.tool_calls) == Counter(c.name for c in item.expected_calls))


def tool_match(item: Item, answer: Answer) -> float:
    """1 if tools and arguments are the expected ones; arguments are compared as JSON, parallel calls in any order."""
    return float(_calls(answer.tool_calls) == _calls(item.expected_calls))


def _calls(calls: Sequence[ToolCall]) -> Counter[tuple[str, str]]:
    """The calls as a multiset; arguments that are not JSON are compared as text."""
    counts: Counter[tuple[str, str]] = Counter()
    for call in calls:
        value = parse_json(call.arguments or "{}")
        counts[call.name, f"not json: {call.arguments}" if value is MISSING else comparable(value)] += 1
    return counts


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401  # any JSON value
    """Every leaf with its path; an empty object or list is a leaf, and so is a missing value."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = list(enumerate(value))
    if not children:
        yield path, comparable(value)
    for key, part in children:
        yield from _leaves(part, path + "/" + str(key).replace("~", "~0").replace("/", "~1"))
