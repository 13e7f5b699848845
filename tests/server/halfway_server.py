"""The server of the user's home as ``ftpipe train`` starts it, with ``halfway_trainer`` and the base model ``tiny``.

It writes a line when it listens. On Linux the server and its trainers are forked from this process, which has imported
what a trainer needs: each start of a trainer takes six seconds of processor time otherwise. Elsewhere libraries do not
allow forks.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ftpipe.atomic_files import read_or_create_secret
from ftpipe.paths import SERVER_KEY_FILE, models_dir, server_dir
from tests.server.halfway_trainer import train
from tests.training.tiny_model import save_base

TRAINER = str(Path(__file__).with_name("halfway_trainer.py"))


def serve_home(*trainer_command: str) -> None:
    """Serve until stopped."""
    from ftpipe.server.http import serve
    from ftpipe.server.settings import ServeSettings
    from tests.server.slow_to_end import announce

    key_file = server_dir() / SERVER_KEY_FILE
    key_file.parent.mkdir(parents=True, mode=0o700)
    read_or_create_secret(key_file)
    serve(ServeSettings(port=0, api_key_file=key_file, trainer_command=trainer_command), on_listening=announce)


def fork_trainers(listener: socket.socket) -> None:
    """Fork a trainer for each connection, which has its job directory and gets its pid."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    while True:
        connection, _ = listener.accept()
        with connection:
            folder = connection.recv(4096).decode()
            if os.fork() == 0:
                try:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    connection.sendall(str(os.getpid()).encode())
                    train(folder)
                finally:
                    os._exit(0)


def main() -> None:
    """Serve and train until SIGTERM."""
    save_base(models_dir() / "tiny")
    if sys.platform != "linux":
        serve_home(sys.executable, "-P", TRAINER)
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/trainers"
        listener.bind(address)
        listener.listen()
        server = os.fork()
        if server == 0:
            try:
                serve_home(sys.executable, "-I", "-S", TRAINER, address)
            finally:
                os._exit(0)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            fork_trainers(listener)
        finally:
            os.kill(server, signal.SIGTERM)
            with suppress(ChildProcessError):  # after its end, as SIGCHLD is ignored
                os.waitpid(server, 0)


if __name__ == "__main__":
    main()
