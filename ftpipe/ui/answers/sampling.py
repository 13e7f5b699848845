"""The parameters of a chat, from the fields of the form."""

from __future__ import annotations

import json
from typing import Any

from ftpipe.errors import UsageError
from ftpipe.ui.fields import FormFields, decimal_number, whole_number

MAX_TOKENS = 100_000
TOP_LOGPROBS = 5


class ChatFields(FormFields):
    """The system message and the parameters."""

    NAMES = ("system", "temperature", "max_tokens", "top_p", "seed", "tools", "response_format")
    MAX_CHARACTERS = 200_000

    @property
    def are_default(self) -> bool:
        """Whether nothing but the system message was filled in."""
        return not self.values.keys() - {"system"}

    @property
    def tools(self) -> list[Any]:
        """The tools, a JSON list of function definitions.

        Raises:
            UsageError: It is no such list.
        """
        value = _json(self["tools"], "the tools", list) if self["tools"] else []
        if not all(isinstance(one, dict) for one in value):
            raise UsageError("the tools are not a list of objects", "write them as in a row of a dataset")
        return list(value)

    def sampling(self) -> dict[str, Any]:
        """What is sent with a chat.

        Raises:
            UsageError: A field is wrong.
        """
        values: dict[str, Any] = {
            "temperature": decimal_number(self["temperature"], "the temperature", high=2) or 0.0,
            "max_tokens": whole_number(self["max_tokens"], "the maximum of tokens", low=1, high=MAX_TOKENS),
            "top_p": decimal_number(self["top_p"], "top p", high=1),
            "seed": whole_number(self["seed"], "the seed", high=2**53),
            "tools": self.tools or None,
        }
        if self["response_format"]:
            values["response_format"] = _response_format(_json(self["response_format"], "the form of the answer", dict))
        return {name: value for name, value in values.items() if value is not None}


def _json(text: str, name: str, kind: type) -> Any:  # noqa: ANN401  # any JSON
    hint = "empty the field to see an example in it"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{name} must be JSON: {exc}", hint) from exc
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be a JSON {'list' if kind is list else 'object'}", hint)
    return value


def _response_format(value: dict[str, Any]) -> dict[str, Any]:
    """A response format; a plain JSON schema is wrapped into one."""
    if value.get("type") in ("json_object", "json_schema", "text"):
        return value
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
