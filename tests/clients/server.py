"""The server that the clients use: ``ftpipe serve`` with a base model of some thousand random parameters."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from tests.benchmarks.soak import MODEL, Server

MAX_STOP_SECONDS = 60
CONTEXT_TOKENS = 16_384
"""The tokenizer has a token for each byte, and clients put long instructions before a question."""


class ClientServer:
    """A server for the programs of clients, stopped at the end of a ``with`` block.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._server = Server(folder, context_tokens=CONTEXT_TOKENS)

    def __enter__(self) -> ClientServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.process.send_signal(signal.SIGTERM)
        try:
            self._server.process.wait(MAX_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.process.kill()
            self._server.process.wait()

    @property
    def base_url(self) -> str:
        """Where it is, with ``/v1``."""
        return f"http://127.0.0.1:{self._server.port}/v1"

    def environment(self, work_folder: Path) -> dict[str, str]:
        """The environment of a client's program: a home of its own, and where the server is."""
        work_folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return inherited | {
            "HOME": str(work_folder),
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": self._server.keys["honest"],
            "CLIENTS_MODEL": MODEL,
            "CLIENTS_BASE_FOLDER": str(self._folder / "home" / "models" / MODEL),
            "CLIENTS_WORK_FOLDER": str(work_folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "NO_COLOR": "1",
        }
