"""The server of ftpipe on a port of loopback, in a thread, for clients that need a real connection."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, Self

import openai
import uvicorn

from ftpipe.server.http import create_app
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.services import ServerContext, Upstream, build_context
from ftpipe.server.settings import ServeSettings
from ftpipe.server.timeouts import header_timeout_protocol
from tests.server.fakes import FakeBaseModels, FakeEngine, FakeValidation


class LiveServer:
    """The server; a context manager.

    Args:
        folder: Where its data folder is.
        routes: Its routes.
        behind: The host at which it trains.
        changes: Settings.
    """

    def __init__(
        self, folder: Path, routes: ModelRoutes | None = None, *, behind: Upstream | None = None, **changes: Any
    ) -> None:
        self.engine = FakeEngine()
        settings = ServeSettings(data_dir=folder / "data", **changes)
        self.context: ServerContext = build_context(
            settings,
            engine=self.engine,
            base_models=FakeBaseModels(),
            start_validation=FakeValidation,
            routes=routes,
            upstream=behind,
        )

    def __enter__(self) -> Self:
        config = uvicorn.Config(
            create_app(self.context), log_config=None, lifespan="on", http=header_timeout_protocol(20, 20)
        )
        self._server = uvicorn.Server(config)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        self.address: tuple[str, int] = listening.getsockname()
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it; the second time changes nothing."""
        self._server.should_exit = True
        self._thread.join()

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        """OpenAI's own client, which repeats nothing."""
        url = f"http://127.0.0.1:{self.address[1]}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, **options)
