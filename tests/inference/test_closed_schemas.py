"""Objects of schemas are closed, so that an answer ends; what one can be written is as JSON Schema has it otherwise."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from ftpipe.inference.closed_schemas import MAX_ADDED_NAMES, close_objects, close_parameters
from ftpipe.inference.constrained_decoding import GrammarConstraint, Vocabulary, build_grammar, json_rule
from tests.training.tiny_model import tiny_tokenizer

A, B = {"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "string"}}}
NODE = {"properties": {"next": {"$ref": "#"}, "value": {"type": "integer"}}}


@cache
def vocabulary() -> Vocabulary:
    tokenizer = tiny_tokenizer()
    return Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


def is_accepted(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value can be written, token by token."""
    import torch

    constraint = GrammarConstraint(vocabulary(), build_grammar([json_rule(schema)]))
    tokenizer = tiny_tokenizer()
    ids = tokenizer(json.dumps(value), add_special_tokens=False)["input_ids"]
    for token in [*ids, tokenizer.eos_token_id]:
        logits = torch.zeros(vocabulary().size)
        constraint.mask_logits(logits)
        if torch.isinf(logits[token]):
            return False
        constraint.accept_token(token)
    return True


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        (A, {"a": 1}, {"a": 1, "c": 1}),
        ({"properties": {}}, {}, {"c": 1}),
        (A | {"required": ["a", "c"]}, {"a": 1, "c": [1]}, {"a": 1, "c": 1, "d": 1}),
        ({"type": "array", "items": A}, [{"a": 1}], [{"c": 1}]),
        ({"anyOf": [A, B]}, {"b": "x"}, {"a": 1, "b": "x"}),
        ({"allOf": [A, B]}, {"a": 1, "b": "x"}, {"a": 1, "c": 1}),
        ({"allOf": [A, B]}, {"b": "x"}, {"a": "x"}),
        (A | {"anyOf": [B, {"required": ["a"]}]}, {"a": 1, "b": "x"}, {"a": 1, "c": 1}),
        (A | {"$ref": "#/$defs/b", "$defs": {"b": B}}, {"a": 1, "b": "x"}, {"b": 1}),
        (A | {"$ref": "#/$defs/b", "$defs": {"b": B}}, {"a": 1}, {"c": 1}),
        ({"$ref": "#/$defs/b~1c", "$defs": {"b/c": B}}, {"b": "x"}, {"c": 1}),
        ({"allOf": [{"$ref": "#/$defs/b"}], "$defs": {"b": B}}, {"b": "x"}, {"b": "x", "c": 1}),
        (NODE, {"next": {"next": {}, "value": 2}, "value": 1}, {"next": {"c": 1}}),
        (
            {
                "properties": {"one": {"$ref": "#/$defs/b"}, "two": {"allOf": [A, {"$ref": "#/$defs/b"}]}},
                "$defs": {"b": B},
            },
            {"one": {"b": "x"}, "two": {"a": 1, "b": "x"}},
            {"one": {"c": 1}},
        ),
        ({"properties": {"a": {"const": {"properties": {}}}}}, {"a": {"properties": {}}}, {"a": {}}),
    ],
)
def test_object_has_only_members_of_its_schema(schema: dict[str, Any], accepted: Any, refused: Any) -> None:
    assert is_accepted(schema, accepted)
    assert not is_accepted(schema, refused)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        A | {"additionalProperties": True},
        A | {"additionalProperties": {"type": "integer"}},
        A | {"patternProperties": {"^x": {}}},
        {"properties": {}, "unevaluatedProperties": True},
        {"allOf": [A, B | {"additionalProperties": True}]},
        A | {"$ref": "other.json"},
        A | {"$ref": "#anchor"},
        A | {"$ref": "#/nothing"},
        {"items": {"$id": "x", **A}},
    ],
)
def test_object_stays_open_if_its_schema_says_so(schema: dict[str, Any]) -> None:
    """Also if it cannot be said which members it has."""
    assert close_objects(schema) == schema


@pytest.mark.parametrize("schema", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_parameters_that_name_nothing_are_none(schema: dict[str, Any] | None) -> None:
    assert close_parameters(schema) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_parameters_can_be_open() -> None:
    schema = {"type": "object", "additionalProperties": True}
    assert close_parameters(schema) == schema


def test_hostile_schema_does_not_grow_without_limit() -> None:
    """Each of many objects would get the names of a large one."""
    large = {"properties": {f"p{number}": True for number in range(1000)}}
    objects = {f"o{number}": {"properties": {}, "$ref": "#/$defs/large"} for number in range(1000)}
    closed = close_objects({"properties": objects, "$defs": {"large": large}})
    names = sum(len(each["properties"]) for each in closed["properties"].values())
    assert MAX_ADDED_NAMES // 2 < names <= MAX_ADDED_NAMES


def test_schema_that_is_a_part_of_itself_stays_open() -> None:
    schema = {"allOf": [A, {"$ref": "#"}], "$ref": "#"}
    assert close_objects(schema) == schema
