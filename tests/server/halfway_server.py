"""The server of the user's home as ``ftpipe train`` starts it, with ``halfway_trainer``; says when it listens."""

from __future__ import annotations

import sys

from ftpipe.atomic_files import read_or_create_secret
from ftpipe.paths import SERVER_KEY_FILE, server_dir
from ftpipe.server.http import serve
from ftpipe.server.settings import ServeSettings
from tests.server.slow_to_end import announce

TRAINER = (sys.executable, "-m", "tests.server.halfway_trainer")


def main() -> None:
    """Serve until stopped."""
    key_file = server_dir() / SERVER_KEY_FILE
    key_file.parent.mkdir(parents=True, mode=0o700)
    read_or_create_secret(key_file)
    serve(ServeSettings(port=0, api_key_file=key_file, trainer_command=TRAINER), on_listening=announce)


if __name__ == "__main__":
    main()
