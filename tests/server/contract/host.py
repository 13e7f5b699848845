"""The ordinary server, with an engine and a trainer that take no time; arguments: folder, port, settings as JSON."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from ftpipe.server.http import serve
from ftpipe.server.services import build_context
from ftpipe.server.settings import ServeSettings
from tests.server.fakes import FAKE_TRAINER, FakeBaseModels, FakeEngine


def main(data_dir: str, port: str, changes: str = "{}") -> None:
    """Serve until stopped."""
    options = json.loads(changes)
    if "api_key_file" in options:
        options["api_key_file"] = Path(options["api_key_file"])
    engine = FakeEngine()
    if "answer_words" in options:
        engine.text = "word " * options.pop("answer_words")
    settings = ServeSettings(data_dir=Path(data_dir), port=int(port), trainer_command=FAKE_TRAINER, **options)
    bases = FakeBaseModels(substitutes=settings.substitute_models)
    serve(settings, partial(build_context, engine=engine, base_models=bases))


if __name__ == "__main__":
    main(*sys.argv[1:])
