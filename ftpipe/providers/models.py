"""``/models`` and ``/chat/completions`` of an OpenAI API, and the row losses that only ftpipe's own server computes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import openai
from pydantic import ValidationError

from ftpipe.catalog.base_models import base_hint, find_base
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import InvalidResponseError, LocalStateError, NotFoundError, ProviderError, RequestRefusedError
from ftpipe.providers.client import ApiClient, ChatAddress
from ftpipe.providers.responses import (
    AnswerPiece,
    ChatCompletion,
    RemoteModel,
    answer_piece_of,
    as_dict,
    completion_of,
    model_of,
)
from ftpipe.records.row_losses import RowLosses


class ModelsClient:
    """The models of an endpoint."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def names(self) -> list[str]:
        """The models that the key can use, sorted."""
        return sorted(model.id for model in self.all())

    def all(self) -> list[RemoteModel]:
        """The models that the key can use, in the order of the endpoint."""
        return self._api.read(
            "list the models",
            lambda client: [model_of(item) for item in self._api.iter_items(client.models.list())],
            list,
        )

    def require_base(self, model: str) -> None:
        """Refuse a base model that the endpoint does not have; one of the catalogue is not looked up.

        Raises:
            NotFoundError: The endpoint says that there is no such model, and its list does not have it either.
        """
        target = self._api.profile.target
        row = find_base(model)
        if model == self._api.profile.default_model or (row is not None and target in row.shutdown):
            return
        if target != "local" and PriceTable.load(target=target).row(model) is not None:
            return
        try:
            self._api.read(f"get model {model}", lambda client: client.models.retrieve(model), as_dict)
        except NotFoundError:
            self._refuse_unless_listed(model)
        except ProviderError:
            return  # the endpoint decides when the job is created

    def _refuse_unless_listed(self, model: str) -> None:
        """Not every endpoint has a route for one model."""
        try:
            names = self.names()
        except ProviderError:
            return
        if model not in names:
            title = self._api.profile.title or self._api.profile.name
            raise NotFoundError(f"{title} has no base model {model!r}; nothing was sent", base_hint(model, names))

    def delete(self, model: str) -> None:
        """Delete a tuned model.

        Raises:
            NotFoundError: The endpoint has no such model.
        """
        self._api.call_once(f"delete model {model}", lambda client: client.models.delete(model), as_dict)

    def shutdown_date(self, model: str) -> str | None:
        """Day on which a model is shut down; ``None`` if the endpoint does not say or does not know the model.

        Source: OpenAI API description, Model.shutdown_date, 2026-08-21.
        """
        try:
            remote = self._api.read(f"get model {model}", lambda client: client.models.retrieve(model), model_of)
        except NotFoundError:
            return None
        return remote.shutdown_date

    def chat(
        self, model: str, messages: list[dict[str, Any]], *, attempts: int | None = None, **sampling: Any
    ) -> ChatCompletion:
        """One chat completion; ``sampling`` is passed on, for example ``temperature``, ``max_tokens`` and ``seed``.

        ``attempts`` is how often the request is sent at most: each attempt whose response is lost may be paid.
        """
        started_at = 0.0  # of the last attempt: a wait between attempts is not the model's

        def call(client: openai.OpenAI) -> object:
            nonlocal started_at
            started_at = time.monotonic()
            return _create(client, model, messages, sampling)

        def parse(response: object) -> ChatCompletion:
            return completion_of(response, latency_s=time.monotonic() - started_at)

        return self._api.read(f"get a completion of {model}", call, parse, attempts=attempts)

    def chat_address(self, model: str) -> ChatAddress:
        """Where chats with a model go that are forwarded as they came."""
        return self._api.chat_address(model)

    def stream(self, model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[AnswerPiece]:
        """One chat completion, piece by piece, with what belongs to the text."""

        def call(client: openai.OpenAI) -> Iterator[AnswerPiece]:
            return map(answer_piece_of, _create(client, model, messages, {**sampling, "stream": True}))

        return self._api.stream(f"get a completion of {model}", call)

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
                raise losses_not_supported(self._api.profile.title or self._api.base_url) from exc
            except openai.BadRequestError as exc:
                raise _scoring_refused(exc) from exc
            except OSError as exc:
                raise LocalStateError(f"cannot read {path}: {exc.strerror}", "name a file that can be read") from exc

        for event in self._api.stream("compute the losses of the rows", call):
            if "total" in event:
                on_rows(int(event["done"]), int(event["total"]))
            try:
                rows += [RowLosses.model_validate(row) for row in event.get("rows", ())]
            except ValidationError as exc:
                raise InvalidResponseError(
                    "the losses do not have the promised form", "check that the endpoint is a server of ftpipe"
                ) from exc
        return rows

    def token_logprobs(self, model: str, ids: Sequence[int]) -> list[float | None]:
        """Log-probability of each token of a text after those before it; ``None`` for the first one.

        Raises:
            RequestRefusedError: The endpoint does not tell it, or the text is too long for the model.
        """

        def call(client: openai.OpenAI) -> object:
            return client.completions.create(model=model, prompt=list(ids), echo=True, max_tokens=0, logprobs=0)

        logprobs = self._api.read(f"get the losses of the tokens under {model}", call, _token_logprobs)
        if len(logprobs) != len(ids):
            raise losses_not_supported(self._api.profile.title or self._api.base_url, "tokens")
        return logprobs


def losses_not_supported(endpoint: str, unit: str = "rows") -> RequestRefusedError:
    """The error of an endpoint that is not a server of ftpipe."""
    return RequestRefusedError(
        f"{endpoint} does not compute the loss of single {unit}",
        "if it is an older server, run `ftpipe serve stop`; the next command starts this version",
    )


def _scoring_refused(exc: openai.BadRequestError) -> RequestRefusedError:
    message = exc.body.get("message") if isinstance(exc.body, dict) else None
    hint = "`ftpipe prepare` lists every error of the file" if exc.param == "file" else "name another with --baseline"
    return RequestRefusedError(f"could not compute the losses of the rows: {message or exc.message}", hint)


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


def _token_logprobs(response: Any) -> list[float | None]:  # noqa: ANN401 - the SDK's completion
    choice = next(iter(response.choices), None)
    return list((choice.logprobs.token_logprobs or ()) if choice and choice.logprobs else ())


def _create(client: openai.OpenAI, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> Any:  # noqa: ANN401 - the SDK's overloads
    return client.chat.completions.create(model=model, messages=cast(Any, messages), **sampling)
