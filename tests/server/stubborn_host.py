"""A server that ignores that it is cancelled, and waits until the file ``go`` appears.

It waits before each token. With ``{"is_loading": true}``, its inference process loads a model without an end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ftpipe.server.http import serve
from ftpipe.server.inference.remote_engine import RemoteEngine
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FAKE_TRAINER, FakeEngine


def main(data_dir: Path, *, is_loading: bool = False) -> None:
    """Serve until stopped."""

    def wait_for_file() -> None:
        (data_dir.parent / "computing").touch()
        while not (data_dir.parent / "go").exists():
            time.sleep(0.01)

    def build(settings: ServeSettings) -> ServerContext:
        if not is_loading:
            return build_context(settings, engine=FakeEngine(before_token=wait_for_file))
        (data_dir.parent / "endless").touch()
        command = (sys.executable, "-m", "tests.server.inference.fake_engine_process", str(data_dir.parent))
        engine = RemoteEngine(command, lambda: False)
        return build_context(settings, engine=engine)

    serve(ServeSettings(data_dir=data_dir, port=0, trainer_command=FAKE_TRAINER), build)


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[3]))
