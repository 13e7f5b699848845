"""What the API description says about one method of a path: its parameters, its body, and what responses contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel

from ftpipe.server.api.schemas import IGNORED_PARAMETERS, RENAMED_PARAMETERS

Schema: TypeAlias = Mapping[str, Any]
"""A JSON Schema."""

TEXT: Schema = {"type": "string"}
CURSOR: Schema = {"type": "string", "description": "The id of the last object of the page before."}
FLAG: Schema = {"type": "string", "enum": ["false", "true"], "default": "false"}
SEQUENCE_NUMBER: Schema = {"type": "integer", "minimum": 0, "maximum": 10**8}
METADATA: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "As `metadata[KEY]=VALUE`; `metadata=null` selects what has no metadata.",
}
BINARY: Schema = {"type": "string", "format": "binary"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method of a path takes and gives; its words are those of the handler's docstring."""

    result: Any = None
    """Type of the JSON of a response; ``None`` if responses are not JSON."""
    body: type[BaseModel] | None = None
    """The model that the handler reads the body with."""
    query: Mapping[str, Schema] = field(default_factory=dict)
    """The parameters of the query."""
    events: Any = None
    """Type of the JSON in each event of a streamed response; ``None`` if responses are not streamed."""
    media_types: tuple[str, ...] = ()
    """What responses are that are neither JSON nor events."""
    ignored: frozenset[str] = frozenset()
    """Parameters that have no effect, besides those of the body's model."""
    other_names: Mapping[str, str] = field(default_factory=dict)
    """Another name of a parameter → its name in the body's model."""


def generation(*, body: type[BaseModel], result: Any, events: Any) -> Operation:  # noqa: ANN401  # types
    """The operation of answers, whole or streamed, that also takes the parameters of other servers."""
    return Operation(
        body=body, result=result, events=events, ignored=IGNORED_PARAMETERS, other_names=RENAMED_PARAMETERS
    )


def one_of(*words: str) -> Schema:
    """A closed list, whose first word is the default."""
    return {"type": "string", "enum": list(words), "default": words[0]}


def page_query(default: int, maximum: int, *order: str, **others: Schema) -> dict[str, Schema]:
    """The parameters of a list.

    Args:
        default: Objects in a page.
        maximum: The most objects that a page can have.
        order: Words for the order, the default first; without any the order is fixed.
        others: Further parameters.
    """
    limit = {"type": "integer", "minimum": 0, "maximum": maximum, "default": default}
    return {"after": CURSOR, "limit": limit, **({"order": one_of(*order)} if order else {}), **others}
