"""A server that ignores that it is cancelled, and waits until the file ``go`` appears.

It waits before each token, or with ``{"is_loading": true}`` while it loads a model.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import Future
from pathlib import Path

from ftpipe.inference.model_cache import ModelCache
from ftpipe.server.http import serve
from ftpipe.server.services import ServerContext, build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FAKE_TRAINER, FakeEngine


class LoadingEngine(FakeEngine):
    """Loads models as the real engine does."""

    models: ModelCache[None]

    def load(self, base: str) -> Future[None]:
        """Load a model in a thread."""
        return self.models.request(base)


def main(data_dir: Path, *, is_loading: bool = False) -> None:
    """Serve until stopped."""

    def wait_for_file() -> None:
        (data_dir.parent / "computing").touch()
        while not (data_dir.parent / "go").exists():
            time.sleep(0.01)

    def build(settings: ServeSettings) -> ServerContext:
        if not is_loading:
            return build_context(settings, engine=FakeEngine(before_token=wait_for_file))
        engine = LoadingEngine()
        context = build_context(settings, engine=engine)
        track = context.active_requests.background_work
        engine.models = ModelCache(lambda _name: wait_for_file(), max_models=1, track=track)
        return context

    serve(ServeSettings(data_dir=data_dir, port=0, trainer_command=FAKE_TRAINER), build)


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[3]))
