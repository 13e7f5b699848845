"""A server whose engine ignores that it is cancelled, and waits until the file ``go`` appears."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from ftpipe.server.http import serve
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FAKE_TRAINER, FakeEngine


def main(data_dir: Path) -> None:
    """Serve until stopped."""

    def wait_for_file() -> None:
        (data_dir.parent / "computing").touch()
        while not (data_dir.parent / "go").exists():
            time.sleep(0.01)

    settings = ServeSettings(data_dir=data_dir, port=0, trainer_command=FAKE_TRAINER)
    serve(settings, partial(build_context, engine=FakeEngine(before_token=wait_for_file)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
