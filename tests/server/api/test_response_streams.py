"""Streams of responses that do not end as they should: cancelled, failed, or ended by the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent

from ftpipe.errors import NotFoundError
from ftpipe.server.protocol import ApiError, ApiRequest, Stream
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FakeBaseModels, FakeEngine, FakeValidation
from tests.server.strict_models import StrictType

EVENT, RESPONSE = StrictType(ResponseStreamEvent), StrictType(Response)


class ResponseStream:
    """The events of one response, which are computed when they are taken.

    Args:
        context: The server.
    """

    def __init__(self, context: ServerContext) -> None:
        body = {"model": "gpt-4o-mini", "input": "hi", "stream": True}
        self.request = ApiRequest("local", body=body)
        self._context = context
        result = context.responses.create(self.request)
        assert isinstance(result, Stream)
        self._pieces = result.pieces
        created = self.take()
        self.id = created["response"]["id"]

    def take(self) -> dict[str, Any]:
        """The next event."""
        piece = next(self._pieces)
        assert isinstance(piece, str)
        event: dict[str, Any] = json.loads(piece.split("data: ")[1])
        EVENT.check(event)
        return event

    def take_until(self, kind: str) -> dict[str, Any]:
        """The next event of a type."""
        while (event := self.take())["type"] != kind:
            pass
        return event

    def has_ended(self) -> bool:
        """Whether there is no further event."""
        return next(self._pieces, None) is None

    def cancel(self, owner: str = "local") -> dict[str, Any]:
        """Cancel the response by its id."""
        return dict(self._context.responses.cancel(ApiRequest(owner, {"response_id": self.id})))

    def retrieve(self) -> dict[str, Any]:
        """The stored response."""
        with self._context.store.read() as tx:
            found = self._context.responses.retrieve(ApiRequest("local", {"response_id": self.id}), tx)
        assert not isinstance(found, Stream)
        return dict(found)


@pytest.fixture
def context(tmp_path: Path, engine: FakeEngine) -> Iterator[ServerContext]:
    """A server without HTTP."""
    context = build_context(
        ServeSettings(data_dir=tmp_path / "data"),
        engine=engine,
        base_models=FakeBaseModels(),
        start_validation=FakeValidation,
    )
    yield context
    context.store.close()


def test_response_can_be_cancelled_while_it_is_streamed(context: ServerContext, engine: FakeEngine) -> None:
    """What was generated is stored; the engine stops; a second cancellation changes nothing."""
    stream = ResponseStream(context)
    stream.take_until("response.output_text.delta")
    with pytest.raises(ApiError):
        stream.cancel("somebody else")
    cancelled = stream.cancel()
    RESPONSE.check(cancelled)
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"][0]["content"][0]["text"].startswith("hello")
    last = stream.take_until("response.incomplete")
    assert stream.has_ended()
    assert (last["response"]["status"], last["response"]["incomplete_details"]) == ("cancelled", None)
    assert "friend" not in last["response"]["output"][0]["content"][0]["text"]
    assert engine.closed.is_set()
    assert stream.retrieve() == stream.cancel() == last["response"]


def test_response_that_fails_while_it_is_streamed_says_why(context: ServerContext, engine: FakeEngine) -> None:
    """Nothing of it is stored."""
    count = 0

    def fail_at_third_token() -> None:
        nonlocal count
        count += 1
        if count == 3:
            message = "the adapter is gone"
            raise NotFoundError(message)

    engine.before_token = fail_at_third_token
    stream = ResponseStream(context)
    failed = stream.take_until("response.failed")
    assert stream.has_ended()
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert "the adapter is gone" in failed["response"]["error"]["message"]
    with pytest.raises(ApiError, match="not found"):
        stream.retrieve()


def test_response_stream_ends_with_error_event_if_server_stops(context: ServerContext) -> None:
    """It is numbered like the other events, and nothing is stored."""
    stream = ResponseStream(context)
    delta = stream.take_until("response.output_text.delta")
    stream.request.cancel_token.cancel()
    error = stream.take_until("error")
    assert (error["code"], stream.has_ended()) == ("server_stopping", True)
    assert error["sequence_number"] > delta["sequence_number"]
    with pytest.raises(ApiError, match="not found"):
        stream.retrieve()
