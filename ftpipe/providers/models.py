"""``/models`` and ``/chat/completions`` of an endpoint, and the losses that only ftpipe's own endpoint tells."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import openai
from pydantic import ValidationError

from ftpipe.errors import InvalidResponseError, LocalStateError, NotFoundError, RequestRefusedError
from ftpipe.providers.client import ApiClient
from ftpipe.providers.responses import ChatCompletion, as_dict, checked_id
from ftpipe.records.row_losses import RowLosses

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class ModelsClient:
    """The models of an endpoint."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def names(self) -> list[str]:
        """The models that the key can use, sorted."""
        return self._api.read(
            "list the models",
            lambda client: sorted(checked_id(as_dict(item), "model") for item in client.models.list()),
            list,
        )

    def shutdown_date(self, model: str) -> str | None:
        """Day on which a model ends; ``None`` where the endpoint does not say or does not know the model.

        Source: OpenAI API description, Model.shutdown_date, 2026-08-21.
        """
        try:
            fields = self._api.read(f"look at model {model}", lambda client: client.models.retrieve(model), as_dict)
        except NotFoundError:
            return None
        day = fields.get("shutdown_date")
        return day if isinstance(day, str) and DAY.fullmatch(day) else None

    def chat(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> ChatCompletion:
        """One answer; ``sampling`` is what ``/chat/completions`` takes: ``temperature``, ``max_tokens``, ``seed``."""
        begun = 0.0  # of the last try: a wait between tries is not the model's

        def call(client: openai.OpenAI) -> object:
            nonlocal begun
            begun = time.monotonic()
            return _create(client, model, messages, sampling)

        def parse(answer: object) -> ChatCompletion:
            fields = as_dict(answer)
            choice = fields["choices"][0]
            usage = fields.get("usage") or {}
            return ChatCompletion(
                text=choice["message"].get("content") or "",
                tool_calls=tuple(choice["message"].get("tool_calls") or ()),
                finish_reason=choice.get("finish_reason") or "",
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
                latency_s=time.monotonic() - begun,
            )

        return self._api.read(f"ask {model}", call, parse)

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        """One answer, piece by piece."""

        def call(client: openai.OpenAI) -> Iterator[str]:
            for chunk in _create(client, model, messages, {**sampling, "stream": True}):
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

        return self._api.stream(f"ask {model}", call)

    def losses(self, path: Path, models: Sequence[str], *, on_rows: Callable[[int, int], None]) -> list[RowLosses]:
        """Loss of every row of a chat file under each of some models of one base; only ftpipe's own server computes it.

        ``on_rows`` is called with the number of rows that are done and the number of all rows.

        Raises:
            RequestRefusedError: The endpoint does not compute it, or cannot use the file or the models.
        """
        rows: list[RowLosses] = []

        def call(client: openai.OpenAI) -> Iterator[dict[str, Any]]:
            try:
                return iter(_post_rows(client, path, models))
            except openai.NotFoundError as exc:
                if exc.code != "unknown_url":
                    raise
                raise _no_losses(self._api.profile.title or self._api.base_url) from exc
            except openai.BadRequestError as exc:
                raise _not_scored(exc) from exc
            except OSError as exc:
                raise LocalStateError(f"cannot read {path}: {exc.strerror}", "name a file that can be read") from exc

        for event in self._api.stream("score the rows", call):
            if "total" in event:
                on_rows(int(event["done"]), int(event["total"]))
            try:
                rows += [RowLosses.model_validate(row) for row in event.get("rows", ())]
            except ValidationError as exc:
                raise InvalidResponseError(
                    "the losses are not what was promised", "is the endpoint an ftpipe?"
                ) from exc
        return rows


def _no_losses(where: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"{where} tells no losses row by row",
        "an older server? `ftpipe serve stop`, and the next command starts this version's",
    )


def _not_scored(exc: openai.BadRequestError) -> RequestRefusedError:
    said = exc.body.get("message") if isinstance(exc.body, dict) else None
    hint = "`ftpipe prepare` lists every fault of the file" if exc.param == "file" else "name another with --against"
    return RequestRefusedError(f"could not score the rows: {said or exc.message}", hint)


def _post_rows(client: openai.OpenAI, path: Path, models: Sequence[str]) -> openai.Stream[dict[str, Any]]:
    with path.open("rb") as file:
        return client.post(
            "/ftpipe/losses",
            cast_to=cast(Any, dict[str, Any]),
            body={"models": json.dumps(list(models))},
            files=[("file", (path.name, file, "application/jsonl"))],
            options={"headers": {"Content-Type": "multipart/form-data"}},
            stream=True,
            stream_cls=openai.Stream[dict[str, Any]],
        )


def _create(client: openai.OpenAI, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> Any:  # noqa: ANN401 - the SDK's overloads
    return client.chat.completions.create(model=model, messages=cast(Any, messages), **sampling)
