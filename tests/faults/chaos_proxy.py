"""A TCP proxy that disturbs connections, in toxiproxy's terms; toxics can be changed while connections are open."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Toxics:
    """What happens to what the server sends (and, for ``latency`` and ``down``, to the connection itself)."""

    latency: float = 0.0
    """Seconds before each piece."""
    bandwidth: float | None = None
    """Bytes per second."""
    slow_close: float = 0.0
    """Seconds by which the end of the connection is late."""
    timeout: float | None = None
    """Nothing gets through; the connection ends after so many seconds."""
    reset_peer: float | None = None
    """Resets the connection so many seconds after the answer came, before any of it is forwarded."""
    slicer: int | None = None
    """Pieces of at most so many bytes, with a short pause between them."""
    limit_data: int | None = None
    """Ends the connection after so many bytes of the answer."""
    down: bool = False
    """Refuses to forward anything: connections end at once."""


class ChaosProxy:
    """Listens on loopback and forwards to a port there."""

    def __init__(self, port: int, toxics: Toxics | None = None) -> None:
        self.toxics = toxics or Toxics()
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every open connection."""
        for connection in list(self._open):
            _close(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        if self.toxics.down:
            _close(client)
            return
        try:
            server = socket.create_connection(self._target)
        except OSError:
            _close(client)
            return
        self._open |= {client, server}
        threading.Thread(target=self._up, args=(client, server), daemon=True).start()
        self._down(server, client)
        self._open -= {client, server}

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        forwarded = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                toxics = self.toxics
                if toxics.timeout is not None:
                    time.sleep(toxics.timeout)
                    break
                if toxics.reset_peer is not None:
                    time.sleep(toxics.reset_peer)
                    _reset(client)
                    break
                if toxics.limit_data is not None:
                    data = data[: max(toxics.limit_data - forwarded, 0)]
                    forwarded += len(data)
                time.sleep(toxics.latency + (len(data) / toxics.bandwidth if toxics.bandwidth else 0))
                size = toxics.slicer or len(data) or 1
                for start in range(0, len(data), size):
                    client.sendall(data[start : start + size])
                    if toxics.slicer:
                        time.sleep(0.002)
                if toxics.limit_data is not None and forwarded >= toxics.limit_data:
                    break
            time.sleep(self.toxics.slow_close)
        _close(client)
        _close(server)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it, so that closing really closes
        time.sleep(0.01)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
