"""The ordinary server, with an engine and a trainer that take no time; arguments are data folder and port."""

from __future__ import annotations

import sys
from pathlib import Path

from ftpipe.server.app import Ports, ServeSettings, serve
from tests.server.fakes import FAKE_TRAINER, FakeEngine


def main(data_dir: str, port: str) -> None:
    """Serve until stopped."""
    settings = ServeSettings(data_dir=Path(data_dir), port=int(port), trainer_command=FAKE_TRAINER)
    serve(settings, Ports(open_engine=FakeEngine))


if __name__ == "__main__":
    main(*sys.argv[1:])
