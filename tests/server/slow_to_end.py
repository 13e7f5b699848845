"""A server that says where it listens, and whose process ends only when the file ``end`` appears."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from ftpipe.server.http import serve
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FAKE_TRAINER, FakeEngine


def announce(url: str) -> None:
    """Write the address to stdout."""
    sys.stdout.write(f"on_listening {url}\n")
    sys.stdout.flush()


def main(data_dir: Path) -> None:
    """Serve until stopped, then wait."""
    settings = ServeSettings(data_dir=data_dir, port=0, trainer_command=FAKE_TRAINER)
    serve(
        settings,
        partial(build_context, engine=FakeEngine()),
        on_listening=announce,
    )
    while not (data_dir.parent / "end").exists():
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
