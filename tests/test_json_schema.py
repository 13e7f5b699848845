"""Schemas from data fetch nothing, end in bounded work, and never raise anything but their own errors."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpipe import json_schema
from ftpipe.json_schema import InvalidSchemaError, JsonSchema, SchemaLimitError, is_deeper_than
from tests.examples import examples

LATEST = "https://json-schema.org/draft/2020-12/schema"


@pytest.fixture
def recording_server() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback, and the paths that were requested from it."""
    requested: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requested
        server.shutdown()


def test_json_schema_fetches_no_reference(recording_server: tuple[str, list[str]], tmp_path: Path) -> None:
    base, requested = recording_server
    local = tmp_path / "schema.json"
    local.write_text('{"type": "string"}', encoding="utf-8")
    schemas: list[dict[str, Any]] = [
        {"$ref": f"{base}/x.json"},
        {"$ref": local.as_uri()},
        {"properties": {"a": {"items": {"$ref": f"{base}/x.json#/a"}}}},
        {"$id": f"{base}/root.json", "$ref": "other.json"},
        {"properties": {"a": {"$id": f"{base}/a.json", "$dynamicRef": "b.json#x"}}},
        {"$defs": {"a": {"$ref": f"{base}/x.json"}}, "$ref": "#/$defs/a"},
        {"x-outside": {"$ref": f"{base}/x.json"}, "$ref": "#/x-outside"},
    ]
    for schema in schemas:
        with pytest.raises(InvalidSchemaError, match="other documents are not fetched"):
            JsonSchema(schema)
    JsonSchema({"$schema": f"{base}/meta.json", "type": "string"}, use_declared_draft=True).first_violation("a")
    JsonSchema({"$schema": f"{base}/meta.json", "$id": f"{base}/x.json"}).first_violation("a")
    assert requested == []


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"$ref": "#"}, "refers to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"not": {"$ref": "#/$defs/a"}}]}}}, "refers to itself"),
        ({"if": {"$ref": "#a"}, "$defs": {"a": {"$anchor": "a", "then": {"$ref": "#a"}}}}, "refers to itself"),
        ({"$ref": "#/$defs/a"}, "not a part of the schema"),
        ({"$ref": "#nowhere"}, "not a part of the schema"),
        ({"$ref": "#/x", "x": 5}, "not a schema"),
        ({"$ref": "#/x", "x": {"type": 5}}, "type: 5"),
        ({"$id": "http://["}, "Invalid"),
        ({"pattern": "[a"}, "not a 'regex'"),
        ({"type": "nonsense"}, 'type: "nonsense"'),
        ({"$defs": 5}, "\\$defs: 5"),
        (nested(80), "nested deeper than 64"),
        (nested(5000), "nested deeper than 64"),
        ({"description": "x" * 300_000}, "larger than"),
    ],
)
def test_json_schema_refuses_what_cannot_be_applied(schema: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidSchemaError, match=fault):
        JsonSchema(schema)


DOUBLED = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}}
CHAINED = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)} | {"d2000": {}}
PATTERN = "^(a|a)*(?!b)$"
SLOW = "a" * 40 + "!"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$defs": DOUBLED, "$ref": "#/$defs/d0"}, 1),
        ({"$defs": CHAINED, "$ref": "#/$defs/d0"}, 1),
        ({"uniqueItems": True}, [{"a": number} for number in range(50_000)]),
        ({"anyOf": [{"type": "string"}] * 2000}, list(range(100_000))),
        ({"items": {"enum": [[number] for number in range(10_000)]}}, [[9_999]] * 50_000),
        ({"pattern": PATTERN}, SLOW),
        ({"patternProperties": {PATTERN: {}}}, {SLOW: 1}),
        ({"patternProperties": {PATTERN: {}}, "additionalProperties": False}, {SLOW: 1}),
        ({"patternProperties": {PATTERN: {}}, "unevaluatedProperties": False}, {SLOW: 1}),
        ({"properties": {"a": {"$schema": LATEST, "pattern": PATTERN}}}, {"a": SLOW}),
        ({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$schema": LATEST, "pattern": PATTERN}}}, [SLOW]),
        ({"propertyNames": {"pattern": PATTERN}}, {SLOW: 1}),
    ],
)
def test_json_schema_gives_up_on_endless_work_once(schema: dict[str, Any], value: Any) -> None:
    """The second check of the same schema costs nothing."""
    compiled = JsonSchema(schema)
    started_at = time.thread_time()
    with pytest.raises(SchemaLimitError):
        compiled.first_violation(value)
    assert time.thread_time() - started_at < 10
    started_at = time.thread_time()
    with pytest.raises(SchemaLimitError):
        compiled.first_violation(value)
    assert time.thread_time() - started_at < 0.1


def test_json_schema_deep_value_is_no_recursion_error() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    with pytest.raises(SchemaLimitError):
        JsonSchema({"items": {"$ref": "#"}}).first_violation(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", "x1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "x1"]), inner, max_size=3),
    max_leaves=6,
)
SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "object", "array", ["null", "boolean"]]),
            "enum": st.lists(VALUES, min_size=1, max_size=2),
            "const": VALUES,
            "minimum": st.integers(-2, 2),
            "minLength": st.integers(0, 2),
            "pattern": st.sampled_from(["^a", "b$", "^(?!x)"]),
            "uniqueItems": st.booleans(),
            "required": st.lists(st.sampled_from(["a", "b"]), unique=True),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^x", "b"]), inner, max_size=2),
            "additionalProperties": inner | st.booleans(),
            "items": inner,
            "contains": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
        },
    ),
    max_leaves=5,
)


@settings(max_examples=examples(60, 300), deadline=None)
@given(schema=SCHEMAS, value=VALUES)
def test_json_schema_agrees_with_library(schema: dict[str, Any], value: Any) -> None:
    """The bounded keywords accept and refuse what the library's own do."""
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (JsonSchema(schema).first_violation(value) is None) is expected


@pytest.mark.parametrize(("value", "depth"), [(1, 0), ([], 1), ({"a": [1, [2]]}, 3), ([1, {"a": {}}], 3)])
def test_is_deeper_than_counts_levels(value: Any, depth: int) -> None:
    assert not is_deeper_than(value, depth)
    assert depth == 0 or is_deeper_than(value, depth - 1)


def test_json_schema_of_a_server_is_checked_after_many_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schemas of one file are limited together; those of a server's clients each for itself."""
    monkeypatch.setattr(json_schema, "SLOW_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(json_schema, "MAX_SLOW_SECONDS", -1.0)
    schema = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(100)}}
    with pytest.raises(SchemaLimitError):
        JsonSchema(schema)
    assert JsonSchema(schema, is_one_of_many=False).first_violation({"p1": "x"}) is None
