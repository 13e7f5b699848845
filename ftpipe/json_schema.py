"""Check values against JSON Schemas from untrusted data: nothing is fetched, and the work is bounded.

The only module that uses ``jsonschema``. By default its validators fetch references over HTTP, open ``file://``, search
with patterns that can take for ever, and repeat work without limit where a schema refers to its own parts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from jsonschema.exceptions import UnknownType, ValidationError
from jsonschema_specifications import REGISTRY as SPECIFICATIONS  # type: ignore[import-untyped]
from referencing.jsonschema import specification_with

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import FtpipeError
from ftpipe.pattern_search import PatternLimitError, is_valid_pattern, matches_pattern

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_STEPS = 200_000
"""Keywords evaluated for one value, long lists counting more; about half a second."""
MAX_STEPS_FOR_SCHEMA = 750_000
"""For the check of a schema itself; 5,000 properties, the most that OpenAI takes, need 610,000, in about a second."""
MAX_CPU_SECONDS = 2.0
"""For one value or schema, if single steps are slow."""
STEPS_BETWEEN_CLOCK_READINGS = 16
SLOW_CHECK_SECONDS = 0.1
MAX_SLOW_SECONDS = 10.0
"""For all slow checks of this process together; after that every check gets the limits that follow, and patterns that
need backtracking are not run. A file can have another slow schema in each line."""
MAX_STEPS_WHEN_LIMITED = 5_000
MAX_CPU_SECONDS_WHEN_LIMITED = 0.02

Json = Any
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE_SCHEMAS = ("not", "if", "then", "else")
_LIBRARY_ERRORS = (
    *(referencing.exceptions.Unresolvable, referencing.exceptions.NoSuchResource, UnknownType),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
)
"""What the libraries raise for schemas that the meta-schema lets through."""


class InvalidSchemaError(FtpipeError):
    """A schema is not valid, or it refers to something outside itself."""

    code = "invalid_schema"


class SchemaLimitError(FtpipeError):
    """A value or a schema is not checked, because that would take too long."""

    code = "schema_limit"


@dataclass(frozen=True, slots=True)
class SchemaViolation:
    """The first fault of a value."""

    path: str
    """Keys and indices, joined with dots."""
    message: str


class JsonSchema:
    """A valid schema that refers to nothing outside itself.

    Args:
        schema: The schema.
        use_declared_draft: Follow the draft that ``$schema`` names, if it is known; otherwise draft 2020-12.
        is_one_of_many: Whether its slow checks count together with those of others, as those of one file do. A server
            does without: one client's schemas would limit those of all.

    Raises:
        InvalidSchemaError: The schema is not valid, too large, too deep or in a loop, or a reference leads outside.
        SchemaLimitError: The check of the schema takes too long.
    """

    def __init__(
        self, schema: Mapping[str, Json], *, use_declared_draft: bool = False, is_one_of_many: bool = True
    ) -> None:
        if is_deeper_than(schema, MAX_SCHEMA_DEPTH):
            raise InvalidSchemaError(f"it is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        text = canonical_json(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise InvalidSchemaError(f"it is larger than {MAX_SCHEMA_BYTES:,} bytes")
        declared = schema.get("$schema") if use_declared_draft else None
        draft: Any = jsonschema.Draft202012Validator
        if isinstance(declared, str):
            draft = jsonschema.validators.validator_for(schema, default=draft)
        self._is_one_of_many = is_one_of_many
        self._limit = ""
        """Why values are not checked any more."""
        if b'"unevaluated' in text and b'"patternProperties"' in text:
            # The library itself searches with the patterns then, without a limit.
            self._limit = "unevaluatedProperties together with patternProperties is not checked"
        try:
            with _limited_work(MAX_STEPS_FOR_SCHEMA, is_one_of_many=is_one_of_many):
                _check_schema(draft, schema)
            self._validator = _bounded(draft)(schema, registry=referencing.Registry())
        except _LIBRARY_ERRORS as exc:
            raise InvalidSchemaError(str(exc)[:200]) from exc
        except RecursionError as exc:
            raise InvalidSchemaError("its references are nested too deep") from exc

    def first_violation(self, value: Json) -> SchemaViolation | None:
        """The first fault of a value; ``None`` if it matches.

        Raises:
            SchemaLimitError: The check takes too long. A schema for which that happened is not used again.
        """
        if self._limit:
            raise SchemaLimitError(self._limit)
        try:
            with _limited_work(MAX_STEPS, is_one_of_many=self._is_one_of_many):
                error = next(self._validator.iter_errors(value), None)
        except (SchemaLimitError, RecursionError, MemoryError) as exc:
            self._limit = str(exc) or "the value or the schema is nested too deep"
            raise SchemaLimitError(self._limit) from exc
        except _LIBRARY_ERRORS as exc:
            self._limit = f"the schema cannot be applied: {str(exc)[:160]}"
            raise SchemaLimitError(self._limit) from exc
        return error and SchemaViolation(".".join(map(str, error.absolute_path)), _message(error))


def _message(error: ValidationError) -> str:
    """The library's message, with values as JSON writes them instead of Python."""
    if error.validator == "enum":
        return f"{_json(error.instance)} is not one of {_json(error.validator_value)}"
    if error.validator is None:
        return f"{_json(error.instance)} is not allowed here"
    if error.validator == "const":
        return f"{_json(error.instance)} is not {_json(error.validator_value)}"
    rest = error.message.removeprefix(repr(error.instance))
    return error.message if rest == error.message else f"{_json(error.instance)}{rest}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def is_deeper_than(value: Json, levels: int) -> bool:
    """True if lists and objects are nested more than ``levels`` deep; needs no recursion."""
    level = [value] if isinstance(value, Mapping | list) else []
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list)
        ]
    return bool(level)


class _SlowChecks:
    """The time that the slow checks of this process have taken."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @property
    def are_too_many(self) -> bool:
        return self.seconds > MAX_SLOW_SECONDS

    def add(self, seconds: float) -> None:
        if seconds > SLOW_CHECK_SECONDS:
            self.seconds += seconds


_slow_checks = _SlowChecks()


class _Budget:
    """The steps and the time that are left for one check."""

    def __init__(self, steps: int, *, is_limited: bool) -> None:
        self.is_limited = is_limited
        self._max_steps = min(steps, MAX_STEPS_WHEN_LIMITED) if self.is_limited else steps
        self._max_seconds = MAX_CPU_SECONDS_WHEN_LIMITED if self.is_limited else MAX_CPU_SECONDS
        self._steps = 0
        self._next_reading = STEPS_BETWEEN_CLOCK_READINGS
        self._started_at = time.thread_time()

    @property
    def seconds(self) -> float:
        """Processor time of this thread since the start."""
        return time.thread_time() - self._started_at

    def spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > self._max_steps:
            raise SchemaLimitError(f"it takes more than {self._max_steps:,} steps")
        if self._steps >= self._next_reading:
            self._next_reading = self._steps + STEPS_BETWEEN_CLOCK_READINGS
            if self.seconds > self._max_seconds:
                raise SchemaLimitError(f"it takes more than {self._max_seconds:g} seconds")


@contextmanager
def _limited_work(steps: int, *, is_one_of_many: bool) -> Iterator[None]:
    """Limit what is done inside to a number of steps and to a time."""
    budget = _Budget(steps, is_limited=is_one_of_many and _slow_checks.are_too_many)
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)
        if is_one_of_many:
            _slow_checks.add(budget.seconds)


_budget: ContextVar[_Budget] = ContextVar("budget")

Keyword = Callable[..., "Iterator[ValidationError] | None"]


@cache
def _bounded(draft: Any) -> Any:  # noqa: ANN401  # jsonschema's validator classes have no common public type
    """A draft's validator class whose keywords count their steps and search with bounded patterns."""
    replaced: dict[str, Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "anyOf": _any_of,
        "oneOf": _one_of,
    }
    keywords = {name: replaced.get(name, keyword) for name, keyword in draft.VALIDATORS.items()}
    keywords["additionalProperties"] = _additional_properties(draft.VALIDATORS["additionalProperties"])
    extend: Any = jsonschema.validators.extend
    bounded = extend(draft, {name: _counted(name, each) for name, each in keywords.items()})

    def evolve(self: Any, **changes: Any) -> Any:  # noqa: ANN401
        # The library's own switches to another, unbounded class where a part of the schema names a draft.
        resolver = changes.get("_resolver", self._resolver)
        return bounded(changes.get("schema", self.schema), _resolver=resolver, format_checker=self.format_checker)

    bounded.evolve = evolve
    return bounded


def _counted(name: str, keyword: Keyword) -> Keyword:
    def counted(validator: Any, argument: Json, instance: Json, schema: Json) -> Any:  # noqa: ANN401
        steps = 1
        if isinstance(argument, list | dict):
            steps += len(argument)
        if isinstance(instance, list | dict):
            # A message contains the whole value.
            steps += len(instance) // 64
            if name == "uniqueItems" and not _is_sorted_quickly(instance):
                steps += len(instance) ** 2
        elif isinstance(instance, str):
            steps += len(instance) // 1024
        _budget.get().spend(steps)
        return keyword(validator, argument, instance, schema)

    return counted


def _is_sorted_quickly(items: Json) -> bool:
    """True if the library compares the items by sorting them, not each with every other."""
    return all(type(item) is str for item in items) or all(type(item) in (int, float) for item in items)


def _matches(pattern: str, text: str) -> bool:
    try:
        return matches_pattern(pattern, text, allow_backtracking=not _budget.get().is_limited)
    except PatternLimitError as exc:
        raise SchemaLimitError(str(exc)) from exc


def _pattern(validator: Any, pattern: str, instance: Json, _schema: Json) -> Iterator[ValidationError]:  # noqa: ANN401
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any,  # noqa: ANN401
    patterns: Mapping[str, Json],
    instance: Json,
    _schema: Json,
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        _budget.get().spend(len(instance))
        for key, value in instance.items():
            if _matches(pattern, key):
                yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(keyword: Keyword) -> Keyword:
    """The library's keyword, for the members that no pattern matches."""

    def additional_properties(
        validator: Any,  # noqa: ANN401
        argument: Json,
        instance: Json,
        schema: Json,
    ) -> Iterator[ValidationError]:
        if not validator.is_type(instance, "object"):
            return
        patterns = schema.get("patternProperties") or {}
        _budget.get().spend(len(instance) * (1 + len(patterns)))
        known = schema.get("properties") or {}
        rest = {
            key: value
            for key, value in instance.items()
            if key not in known and not any(_matches(pattern, key) for pattern in patterns)
        }
        yield from keyword(validator, argument, rest, {"properties": known}) or ()

    return additional_properties


def _any_of(
    validator: Any,  # noqa: ANN401
    subschemas: Sequence[Json],
    instance: Json,
    _schema: Json,
) -> Iterator[ValidationError]:
    """Like the library's, without the messages of every alternative."""
    if not any(_is_valid(validator, instance, each) for each in subschemas):
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")


def _one_of(
    validator: Any,  # noqa: ANN401
    subschemas: Sequence[Json],
    instance: Json,
    _schema: Json,
) -> Iterator[ValidationError]:
    valid = [each for each in subschemas if _is_valid(validator, instance, each)]
    if not valid:
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")
    elif len(valid) > 1:
        yield ValidationError(f"{instance!r} is valid under {len(valid)} of the given schemas")


def _is_valid(validator: Any, instance: Json, subschema: Json) -> bool:  # noqa: ANN401
    return next(validator.descend(instance, subschema), None) is None


_FORMATS = jsonschema.FormatChecker(formats=())
_FORMATS.checks("regex")(lambda value: not isinstance(value, str) or is_valid_pattern(value))


def _check_schema(draft: Any, schema: Mapping[str, Json]) -> None:  # noqa: ANN401
    """Raise an error if a schema, or a part of it to which a reference leads, does not follow its draft."""
    meta = _bounded(draft)(draft.META_SCHEMA, registry=referencing.Registry(), format_checker=_FORMATS)
    in_place: dict[int, list[int]] = {}
    for start in _starts(specification_with(draft.ID_OF(draft.META_SCHEMA)), schema, in_place):
        error = next(meta.iter_errors(start), None)
        if error is not None:
            location = ".".join(map(str, error.absolute_path)) or "schema"
            raise InvalidSchemaError(f"{location}: {_message(error)}")
    if _has_loop(in_place):
        raise InvalidSchemaError("$ref: a schema refers to itself for the same value, without an end")


def _starts(specification: Any, schema: Mapping[str, Json], in_place: dict[int, list[int]]) -> Iterator[Json]:  # noqa: ANN401
    """The schema, and every part outside the usual places for subschemas to which a reference leads.

    ``in_place`` is filled with the subschemas that each subschema applies to the same value, by identity.
    """
    yield schema
    root = specification.create_resource(schema)
    registry = SPECIFICATIONS.with_resource(root.id() or "", root).crawl()
    pending = [(schema, registry.resolver(root.id() or ""))]
    while pending:
        start, resolver = pending.pop()
        if id(start) in in_place:
            continue
        if start is not schema:
            yield start
        parts = [(start, resolver)]
        while parts:
            part, resolver = parts.pop()
            if id(part) in in_place:
                continue
            targets = _targets(part, resolver)
            pending += targets
            in_place[id(part)] = [id(each) for each in [*(target for target, _ in targets), *_applied_in_place(part)]]
            for resource in specification.create_resource(part).subresources():
                if isinstance(resource.contents, dict):
                    parts.append((resource.contents, resolver.in_subresource(resource)))


def _targets(part: Mapping[str, Json], resolver: Any) -> list[tuple[Json, Any]]:  # noqa: ANN401
    """The schemas to which a schema refers, each with the resolver for its own references."""
    targets = []
    for keyword in _REFERENCES:
        reference = part.get(keyword)
        if not isinstance(reference, str):
            continue
        try:
            resolved = resolver.lookup(reference)
        except _LIBRARY_ERRORS as exc:
            raise InvalidSchemaError(
                f"{keyword}: {reference[:72]!r} is not a part of the schema; other documents are not fetched"
            ) from exc
        if not isinstance(resolved.contents, dict | bool):
            raise InvalidSchemaError(f"{keyword}: {reference[:72]!r} is not a schema")
        if isinstance(resolved.contents, dict):
            targets.append((resolved.contents, resolved.resolver))
    return targets


def _applied_in_place(part: Mapping[str, Json]) -> Iterator[Json]:
    for keyword in _IN_PLACE_LISTS:
        yield from part.get(keyword) or ()
    for keyword in _IN_PLACE_SCHEMAS:
        yield part.get(keyword)
    yield from (part.get("dependentSchemas") or {}).values()


def _has_loop(graph: Mapping[int, list[int]]) -> bool:
    """True if a node of a graph is reached from itself."""
    waiting = {node: {other for other in others if other in graph} for node, others in graph.items()}
    users: dict[int, list[int]] = {}
    for node, others in waiting.items():
        for other in others:
            users.setdefault(other, []).append(node)
    ready = [node for node, others in waiting.items() if not others]
    done = 0
    while ready:
        node = ready.pop()
        done += 1
        for user in users.get(node, ()):
            waiting[user].discard(node)
            if not waiting[user]:
                ready.append(user)
    return done < len(waiting)
