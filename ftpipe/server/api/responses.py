"""``/responses``: create, retrieve, cancel and delete responses, and list what they were created from."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import LocalStateError
from ftpipe.server.api.answer_events import AnswerEnd, AnswerEvent
from ftpipe.server.api.answer_streams import with_first
from ftpipe.server.api.chat import ChatCompletionsApi, RunningChat
from ftpipe.server.api.response_chat import (
    add_event,
    chat_body,
    errors_about_response,
    newest_items,
    response_head,
)
from ftpipe.server.api.response_events import ResponseBuilder, replay_events, server_sent_event
from ftpipe.server.api.response_items import (
    RESPONSE_PREFIX,
    Item,
    ItemIds,
    chat_messages,
    listed_item,
    parse_items,
    response_of_item,
)
from ftpipe.server.api.response_schemas import ConversationRequest, CreateResponse, parse_request
from ftpipe.server.cancellation import CancelToken, RequestCancelledError
from ftpipe.server.clock import now
from ftpipe.server.protocol import (
    ApiError,
    ApiRequest,
    Stream,
    bad_request,
    enum_query_param,
    int_query_param,
    new_id,
    printable,
    server_is_stopping,
    storage_unavailable,
)
from ftpipe.server.routes import ModelRoutes, follow_route
from ftpipe.server.storage import ResponseRow, Store, Transaction, UnknownCursorError
from ftpipe.server.storage.responses import ChainLimitError, MissingResponseError

log = logging.getLogger("ftpipe.server")

MAX_LIMIT = 100
RETENTION_SECONDS = 30 * 24 * 3600
"""How long a response is stored. Source: OpenAI, "Your data", /v1/responses, read 2026-11-29."""
DEFAULT_ANSWER_TOKENS = 1024
"""Room for the answer when a conversation is truncated, if the request does not say its maximum."""


@dataclass(frozen=True, slots=True)
class _Creation:
    """A response that is about to be generated."""

    request: ApiRequest
    """As a chat."""
    create: CreateResponse
    items: list[Item]
    """Of its request, without those of the responses before it."""
    ids: ItemIds
    response_id: str

    def builder(self, model: str) -> ResponseBuilder:
        """Builds the response; ``model`` is the name of what answers."""
        return ResponseBuilder(response_head(self.response_id, self.create, model), self.ids.new)


@dataclass(frozen=True, slots=True)
class _RunningResponses:
    """Streams that can be cancelled by their response's id; can be used from several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _runs: dict[tuple[str, str], tuple[CancelToken, ResponseBuilder]] = field(default_factory=dict)

    def add(self, creation: _Creation, builder: ResponseBuilder) -> None:
        with self._lock:
            key = creation.request.owner, creation.response_id
            self._runs[key] = creation.request.cancel_token, builder

    def remove(self, creation: _Creation) -> None:
        with self._lock:
            self._runs.pop((creation.request.owner, creation.response_id), None)

    def cancel(self, owner: str, response_id: str) -> dict[str, Any] | None:
        """Cancel a response, and give what there is of it; ``None`` if it is not running."""
        with self._lock:
            run = self._runs.get((owner, response_id))
        if run is None:
            return None
        token, builder = run
        token.cancel()
        return builder.body | {"status": "cancelled"}


class ResponsesApi:
    """The handlers of ``/responses``.

    Args:
        store: The server's database.
        routes: Names that are served by models of other names.
        chat: Answers; a response is a chat whose conversation can be stored here.
    """

    def __init__(self, store: Store, routes: ModelRoutes, chat: ChatCompletionsApi) -> None:
        self._store = store
        self._routes = routes
        self._chat = chat
        self._running = _RunningResponses()

    def load_model(self, request: ApiRequest) -> Future[Any]:
        """Load the base model of a request, so that it is not waited for in the place of other requests."""
        request = follow_route(self._routes, request)
        body = {
            "model": parse_request(CreateResponse, request.body).model,
            "messages": [{"role": "user", "content": "-"}],
        }
        with errors_about_response():
            return self._chat.load_model(replace(request, body=body))

    def create(self, request: ApiRequest) -> Mapping[str, Any] | Stream:
        """Answer a conversation, and store the answer unless the request says not to."""
        request = follow_route(self._routes, request)
        creation = self._prepare(request, parse_request(CreateResponse, request.body))
        with errors_about_response():
            running = self._chat.start(creation.request)
        builder = creation.builder(running.answers.model)
        if creation.create.stream:
            return Stream(with_first(self._stream(request.cancel_token, creation, running, builder)))
        for event in _events(running):
            add_event(builder, event)
        self._chat.finish(running)
        self._save(creation, builder)
        return builder.body

    def _prepare(self, request: ApiRequest, create: CreateResponse) -> _Creation:
        """Read the conversation of a request, and write it as a chat."""
        response_id = new_id(RESPONSE_PREFIX)
        ids = ItemIds(response_id)
        with self._store.read() as tx:
            items = parse_items(create.input, ids, partial(_find_item, tx, request.owner))
            context = _context(tx, request.owner, create.previous_response_id)
        body = self._chat_body(request, create, [*context, *items])
        token = CancelToken()
        request.cancel_token.on_cancel(token.cancel)
        return _Creation(replace(request, body=body, cancel_token=token), create, items, ids, response_id)

    def _chat_body(self, request: ApiRequest, create: ConversationRequest, items: list[Item]) -> dict[str, Any]:
        """The chat that answers a conversation; with ``truncation=auto`` without the oldest items if need be."""

        def body_of(some: list[Item]) -> dict[str, Any]:
            return chat_body(create, chat_messages(create.instructions, some))

        if create.truncation != "auto":
            return body_of(items)
        body_of(items)  # refuses what is wrong, also in items that would be left out
        answer_tokens = getattr(create, "max_output_tokens", None) or DEFAULT_ANSWER_TOKENS
        with errors_about_response():
            kept = newest_items(
                items, lambda some: self._chat.count_tokens(replace(request, body=body_of(some))), answer_tokens
            )
        return body_of(kept)

    def count_tokens(self, request: ApiRequest) -> Mapping[str, Any]:
        """How many tokens a request would have; nothing is generated."""
        request = follow_route(self._routes, request)
        count = parse_request(ConversationRequest, request.body)
        with self._store.read() as tx:
            items = parse_items(count.input, ItemIds(RESPONSE_PREFIX), partial(_find_item, tx, request.owner))
            context = _context(tx, request.owner, count.previous_response_id)
        body = self._chat_body(request, count, [*context, *items])
        with errors_about_response():
            tokens = self._chat.count_tokens(replace(request, body=body))
        return {"object": "response.input_tokens", "input_tokens": tokens}

    def _stream(
        self, client_token: CancelToken, creation: _Creation, running: RunningChat, builder: ResponseBuilder
    ) -> Iterator[str]:
        """The events of a response; an error before its first token is raised before the first event."""
        with closing(_events(running)) as answer:  # type: ignore[type-var]  # a generator, which has close()
            event = next(answer)
            self._running.add(creation, builder)
            try:
                yield from map(server_sent_event, builder.begin())
                while not isinstance(event, AnswerEnd):
                    yield from map(server_sent_event, add_event(builder, event))
                    event = next(answer)
                events = add_event(builder, event)
                self._chat.finish(running)
            except RequestCancelledError:
                if client_token.is_cancelled:  # the server is stopping, or the client has left and reads nothing
                    yield server_sent_event(builder.error(server_is_stopping().body["error"]))
                    return
                events = builder.finish("cancelled")
            except ApiError as exc:
                events = builder.finish("failed", error={"code": "server_error", "message": exc.message})
            finally:
                self._running.remove(creation)
            try:
                self._save(creation, builder)
            except LocalStateError as exc:
                log.error("response %s cannot be stored: %s", creation.response_id, exc)
                events = [builder.error(storage_unavailable().body["error"])]
            yield from map(server_sent_event, events)

    def _save(self, creation: _Creation, builder: ResponseBuilder) -> None:
        body = builder.body
        if creation.create.store is False or body["status"] == "failed":
            return
        row = ResponseRow(
            id=creation.response_id,
            owner=creation.request.owner,
            bytes=len(canonical_json([creation.items, body["output"]])),
            created_at=body["created_at"],
            expires_at=body["created_at"] + RETENTION_SECONDS,
            previous_response_id=creation.create.previous_response_id,
            input_items=creation.items,
            body=body,
            deltas=builder.deltas,
        )
        with self._store.write() as tx:
            tx.responses.add(row)

    def retrieve(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any] | Stream:
        """A stored response, or with ``stream=true`` the events of its stream once more."""
        row = _find(request, tx)
        if enum_query_param(request, "stream", ("false", "true")) == "false":
            return row.body
        is_after = "starting_after" in request.query_params
        after = int_query_param(request, "starting_after", 0, maximum=10**8) if is_after else -1
        events = replay_events(row.body, row.deltas)
        return Stream(server_sent_event(event) for event in events if event["sequence_number"] > after)

    def cancel(self, request: ApiRequest) -> Mapping[str, Any]:
        """Cancel a response that is being streamed; one that has ended stays as it is."""
        cancelled = self._running.cancel(request.owner, request.path_params["response_id"])
        if cancelled is not None:
            return cancelled
        with self._store.read() as tx:
            return _find(request, tx).body

    def compact(self, _request: ApiRequest) -> Mapping[str, Any]:
        """Refused: what OpenAI returns can only be read by OpenAI."""
        message = 'Compaction is not served. Use "truncation": "auto", or start a new conversation with a summary.'
        raise ApiError(404, message, "unknown_url")

    def delete(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Delete a stored response; its conversation cannot be continued afterwards."""
        row = _find(request, tx)
        tx.responses.delete(row.id)
        return {"id": row.id, "object": "response", "deleted": True}

    def input_items(self, request: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """One page of the items that a response was created from, those of its conversation included."""
        row = _find(request, tx)
        items = [*_context(tx, request.owner, row.previous_response_id), *row.input_items]
        limit = int_query_param(request, "limit", 20, maximum=MAX_LIMIT)
        if enum_query_param(request, "order", ("desc", "asc")) == "desc":
            items.reverse()
        after = request.query_params.get("after")
        if after:
            positions = [index for index, item in enumerate(items) if item["id"] == after]
            if not positions:
                message = f"No item with id '{printable(after)}' is in this list."
                raise UnknownCursorError(message)
            items = items[positions[0] + 1 :]
        page = [listed_item(item) for item in items[:limit]]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(items) > limit,
        }


def _find(request: ApiRequest, tx: Transaction) -> ResponseRow:
    response_id = request.path_params["response_id"]
    row = tx.responses.get(request.owner, response_id, now=now())
    if row is None:
        message = f"Response with id '{printable(response_id)}' not found."
        raise ApiError(404, message, None, "response_id")
    return row


def _find_item(tx: Transaction, owner: str, item_id: str) -> Item | None:
    response_id = response_of_item(item_id)
    row = None if response_id is None else tx.responses.get(owner, response_id, now=now())
    items = [] if row is None else [*row.input_items, *row.body["output"]]
    return next((item for item in items if item["id"] == item_id), None)


def _context(tx: Transaction, owner: str, response_id: str | None) -> list[Item]:
    """All items of the conversation that ends with a response.

    Raises:
        ApiError: 400 if it, or a response before it, is not stored, or there are too many.
    """
    if response_id is None:
        return []
    try:
        rows = tx.responses.chain(owner, response_id, now=now())
    except MissingResponseError as exc:
        message = f"Previous response with id '{printable(exc.response_id)}' not found."
        raise bad_request(message, "previous_response_id", exc.code) from exc
    except ChainLimitError as exc:
        message = f"Invalid 'previous_response_id': {exc.message}."
        raise bad_request(message, "previous_response_id", exc.code) from exc
    return [item for row in rows for item in (*row.input_items, *row.body["output"])]


def _events(running: RunningChat) -> Iterator[AnswerEvent]:
    """The events of an answer, whose errors are in the words of a response."""
    with closing(running.answers.events()) as events, errors_about_response():  # type: ignore[type-var]  # a generator
        for _, event in events:
            yield event
