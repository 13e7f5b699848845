"""Grammars of function calls: the schemas of tools refer to themselves, and not to what they are put into."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftpipe.inference.constrained_decoding import GrammarConstraint, Vocabulary, build_grammar, tool_call_rule
from tests.training.tiny_model import tiny_tokenizer


def is_accepted(functions: list[dict[str, Any]], name: str, arguments: Any) -> bool:
    """Whether a call can be written, token by token."""
    import torch

    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    vocabulary = Vocabulary(tokenizer, size, [tokenizer.eos_token_id])
    constraint = GrammarConstraint(vocabulary, build_grammar([tool_call_rule(functions)]))
    call = json.dumps({"name": name, "arguments": arguments})
    for token in tokenizer(f"<tool_call>\n{call}\n</tool_call>", add_special_tokens=False)["input_ids"]:
        logits = torch.zeros(size)
        constraint.mask_logits(logits)
        if torch.isinf(logits[token]):
            return False
        constraint.accept_token(token)
    return True


def function(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"name": name, "parameters": {**closed, **more}}


TREE = function("tree", {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}})


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ({"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]}, True),
        ({"value": 1, "children": [{"name": "tree", "arguments": {"value": 2}}]}, False),
        ({"value": 1, "children": [2]}, False),
    ],
)
def test_tool_schema_that_refers_to_itself(arguments: Any, accepted: bool) -> None:
    """``#`` is the tool's own schema, not that of the call."""
    assert is_accepted([TREE], "tree", arguments) is accepted


def test_tools_have_definitions_of_their_own() -> None:
    """Two tools use one name for different things."""
    number, text = (
        function(
            name, {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/properties/a"}}, **{"$defs": {"x": {"type": type_}}}
        )
        for name, type_ in (("number", "integer"), ("text", "string"))
    )
    assert is_accepted([number, text], "number", {"a": 1, "b": 2})
    assert is_accepted([number, text], "text", {"a": "x", "b": "y"})
    assert not is_accepted([number, text], "number", {"a": "x"})
    assert not is_accepted([number, text], "text", {"a": "x", "b": 2})


def test_tool_schema_values_are_not_references() -> None:
    """A constant, and a property, can have the name of a keyword."""
    odd = function(
        "odd", {"$ref": {"const": {"$ref": "#"}}, "const": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": {"type": "null"}}}
    )
    assert is_accepted([odd], "odd", {"$ref": {"$ref": "#"}, "const": None})
    assert not is_accepted([odd], "odd", {"const": 1})
