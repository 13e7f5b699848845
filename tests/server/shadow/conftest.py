"""A server in this process whose chats are mirrored to another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import GenerationRequest
from ftpipe.server.http import create_app
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings, ShadowPair, ShadowSettings
from ftpipe.server.storage import ShadowPairRow, ShadowResultRow
from tests.server.fakes import FAKE_TRAINER, TINY, FakeBaseModels, FakeEngine, FakeValidation

OLD, NEW = TINY, "org/name"


@dataclass
class PairedEngine(FakeEngine):
    """Two base models, which can have different texts and hooks."""

    new: FakeEngine = field(default_factory=FakeEngine)

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """Answer by the model that was asked for."""
        answer = self.new.generate if base == NEW else super().generate
        return answer(base=base, adapter=adapter, request=request, check_cancelled=check_cancelled)


class ShadowServer:
    """A running server, and what it has stored."""

    def __init__(self, context: ServerContext, client: TestClient) -> None:
        self.context = context
        self.client = client

    def chat(self, text: str = "hi", **changes: Any) -> Any:
        """A chat with the old model."""
        body = {"model": OLD, "messages": [{"role": "user", "content": text}]} | changes
        return self.client.post("/v1/chat/completions", json=body)

    def stop(self) -> None:
        """Stop the server; the second time changes nothing."""
        self.client.__exit__(None, None, None)

    def settle(self) -> None:
        """Wait until all mirrored chats were compared."""
        assert self.context.shadow is not None
        assert self.context.shadow.wait_until_idle(20)

    def pairs(self) -> list[ShadowPairRow]:
        """The stored pairs, with the counts so far."""
        assert self.context.shadow is not None
        self.settle()
        self.context.shadow.store_counts()
        with self.context.store.read() as tx:
            rows = tx.shadow.pairs()
            tx.session.expunge_all()
            return rows

    def results(self) -> list[ShadowResultRow]:
        """The stored comparisons."""
        self.settle()
        with self.context.store.read() as tx:
            rows = [row for pair in tx.shadow.pairs() for row in tx.shadow.results(pair.id)]
            texts = [row.texts for row in rows]  # loaded late
            tx.session.expunge_all()
            assert len(texts) == len(rows)
            return rows


MakeServer = Callable[..., ShadowServer]


@pytest.fixture
def engine() -> PairedEngine:
    """The engine behind the server."""
    return PairedEngine()


@pytest.fixture
def make_server(tmp_path: Path, engine: PairedEngine) -> Iterator[MakeServer]:
    """Starts servers on one folder; keyword arguments are settings of shadow traffic. All are stopped in the end."""
    with ExitStack() as stack:

        def make(*, api_key_file: Path | None = None, **changes: Any) -> ShadowServer:
            shadow = replace(ShadowSettings(pairs=(ShadowPair(OLD, NEW),), share=1.0), **changes)
            settings = ServeSettings(
                data_dir=tmp_path / "data", trainer_command=FAKE_TRAINER, shadow=shadow, api_key_file=api_key_file
            )
            context = build_context(
                settings, engine=engine, base_models=FakeBaseModels(), start_validation=FakeValidation
            )
            client = TestClient(create_app(context), base_url="http://127.0.0.1", raise_server_exceptions=False)
            return ShadowServer(context, stack.enter_context(client))

        yield make
