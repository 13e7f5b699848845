"""Check bodies against the openai SDK's types strictly: of the right types, nothing missing, and nothing unknown."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter


class StrictType:
    """A type of the SDK, whose models by themselves let unknown fields pass.

    Args:
        type_: A model, or a union of models.
    """

    def __init__(self, type_: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(type_)

    def check(self, value: object) -> None:
        """Raise an error unless the value has the type, and no field that the type does not name."""
        parsed = self._adapter.validate_python(value, strict=True)
        assert _unknown_fields(parsed, "") == []


def _unknown_fields(value: object, path: str) -> list[str]:
    """Paths of the fields, at any depth, that no model names."""
    if isinstance(value, BaseModel):
        unknown = [f"{path}.{name}" for name in value.model_extra or ()]
        return unknown + [each for name, field in value for each in _unknown_fields(field, f"{path}.{name}")]
    if isinstance(value, list):
        return [each for index, item in enumerate(value) for each in _unknown_fields(item, f"{path}[{index}]")]
    return []
