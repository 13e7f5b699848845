"""``/models`` and ``/chat/completions`` of an endpoint."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, cast

import openai

from ftpipe.errors import NotFoundError
from ftpipe.providers.answers import as_dict, checked_id
from ftpipe.providers.base import Answer
from ftpipe.providers.client import Caller

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Models:
    """The models of an endpoint, as ``ModelsPort`` wants them."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def names(self) -> list[str]:
        """The models that the key can use, sorted."""
        return self._caller.read(
            "list the models",
            lambda client: sorted(checked_id(as_dict(item), "model") for item in client.models.list()),
            list,
        )

    def shutdown_date(self, model: str) -> str | None:
        """Day on which a model ends; ``None`` where the endpoint does not say or does not know the model.

        Source: OpenAI API description, Model.shutdown_date, 2026-08-21.
        """
        try:
            fields = self._caller.read(f"look at model {model}", lambda client: client.models.retrieve(model), as_dict)
        except NotFoundError:
            return None
        day = fields.get("shutdown_date")
        return day if isinstance(day, str) and DAY.fullmatch(day) else None

    def chat(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Answer:
        """One answer; ``sampling`` is what ``/chat/completions`` takes: ``temperature``, ``max_tokens``, ``seed``."""
        begun = 0.0  # of the last try: a wait between tries is not the model's

        def call(client: openai.OpenAI) -> object:
            nonlocal begun
            begun = time.monotonic()
            return _create(client, model, messages, sampling)

        def parse(answer: object) -> Answer:
            fields = as_dict(answer)
            choice = fields["choices"][0]
            usage = fields.get("usage") or {}
            return Answer(
                text=choice["message"].get("content") or "",
                tool_calls=tuple(choice["message"].get("tool_calls") or ()),
                finish_reason=choice.get("finish_reason") or "",
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
                latency_s=time.monotonic() - begun,
            )

        return self._caller.read(f"ask {model}", call, parse)

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        """One answer, piece by piece."""

        def call(client: openai.OpenAI) -> Iterator[str]:
            for chunk in _create(client, model, messages, {**sampling, "stream": True}):
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

        return self._caller.stream(f"ask {model}", call)


def _create(client: openai.OpenAI, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> Any:  # noqa: ANN401 - the SDK's overloads
    return client.chat.completions.create(model=model, messages=cast(Any, messages), **sampling)
