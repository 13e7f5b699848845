"""Metrics of structure: JSON documents field by field, tool calls by name and arguments, never as strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ftpipe.errors import UsageError
from ftpipe.grading.json_values import MISSING, comparable, parse_json
from ftpipe.records.evaluation import Answer, Item, ToolCall


def json_valid(_item: Item, answer: Answer) -> float:
    """1 where the answer is JSON and nothing else."""
    return float(parse_json(answer.text) is not MISSING)


def json_match(item: Item, answer: Answer) -> float:
    """1 where the answer is the wanted document, whatever the order of keys and the spacing."""
    value = parse_json(answer.text)
    return float(value is not MISSING and comparable(value) == comparable(parse_json(item.expected)))


def json_fields(item: Item, answer: Answer) -> float:
    """Share of all leaves, wanted or answered, that both documents have alike; a made-up field counts against it."""
    wanted = dict(_leaves(parse_json(item.expected)))
    got = dict(_leaves(parse_json(answer.text)))
    every = wanted.keys() | got.keys()
    return sum(path in wanted and path in got and wanted[path] == got[path] for path in every) / len(every)


def field_hits(item: Item, answer: Answer) -> dict[str, bool]:
    """Wanted top-level field → whether the answer has it right."""
    wanted, got = parse_json(item.expected), parse_json(answer.text)
    if not isinstance(wanted, dict):
        return {}
    got = got if isinstance(got, dict) else {}
    return {name: name in got and comparable(got[name]) == comparable(value) for name, value in wanted.items()}


def schema_check(schema: dict[str, Any]) -> Any:  # noqa: ANN401  # a metric function
    """A metric that is 1 where the answer is JSON that the schema allows.

    References to other documents are not followed, so that no schema can make ftpipe fetch anything.

    Raises:
        UsageError: The schema itself is not valid.
    """
    import jsonschema
    import referencing

    maker = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        maker.check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise UsageError(f"The JSON schema is not valid: {exc.message}", "Correct the file given by --schema.") from exc
    validator = maker(schema, registry=referencing.Registry())

    def schema_valid(_item: Item, answer: Answer) -> float:
        """1 where the answer is JSON that the schema allows."""
        value = parse_json(answer.text)
        try:
            return float(value is not MISSING and validator.is_valid(value))
        except (referencing.exceptions.Unresolvable, RecursionError) as exc:
            raise UsageError(
                f"The JSON schema points to something that it does not hold: {exc}",
                "Put the definitions into the schema itself, under $defs.",
            ) from exc

    return schema_valid


def tool_choice(item: Item, answer: Answer) -> float:
    """1 where the model called tools exactly when it should: a rightly omitted call counts."""
    return float(bool(answer.tool_calls) == bool(item.expected_calls))


def tool_name(item: Item, answer: Answer) -> float:
    """1 where the right tools were called, in whatever order."""
    return float(Counter(call.name for call in answer.tool_calls) == Counter(c.name for c in item.expected_calls))


def tool_match(item: Item, answer: Answer) -> float:
    """1 where tools and arguments are right; arguments by structure, parallel calls in whatever order."""
    return float(_calls(answer.tool_calls) == _calls(item.expected_calls))


def _calls(calls: Sequence[ToolCall]) -> Counter[tuple[str, str]]:
    """The calls as a bag; arguments that are no JSON stay what they are, and so match nothing that is."""
    bag: Counter[tuple[str, str]] = Counter()
    for call in calls:
        value = parse_json(call.arguments or "{}")
        bag[call.name, f"not json: {call.arguments}" if value is MISSING else comparable(value)] += 1
    return bag


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401  # any JSON value
    """Every leaf with its path; an empty object or list is a leaf, and so is "no JSON"."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = list(enumerate(value))
    if not children:
        yield path, comparable(value)
    for key, part in children:
        yield from _leaves(part, path + "/" + str(key).replace("~", "~0").replace("/", "~1"))
