"""``ftpipe serve`` with routes, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai

from ftpipe.pipeline.shadow_status import shadow_statuses
from ftpipe.registry import open_registry
from tests.fakes.chat_host import SERVED, ChatHost
from tests.gateway.conftest import KEY, OLD, register

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60


def test_serve_aliases_answers_under_old_name_until_alias_moves(tmp_path: Path, host: ChatHost) -> None:
    """A process, OpenAI's own client, and an alias that moves while the server runs; the key is in no file."""
    register_all(tmp_path, host)
    environment = {
        **os.environ,
        "FTPIPE_HOME": str(tmp_path / "home"),
        "OPENAI_BASE_URL": host.base_url,
        "OPENAI_API_KEY": KEY,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "ftpipe", "serve", "--port", "0", "--no-key", "--aliases"]
    command += ["--shadow", f"{OLD}=org/second", "--share", "1"]
    command += ["--data-dir", str(tmp_path / "data"), "--registry", str(tmp_path / "registry.db")]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=tmp_path)
    try:
        client = openai.OpenAI(base_url=address_of(tmp_path / "data", process), api_key="any", max_retries=0)
        registry = open_registry(tmp_path / "registry.db")
        for name in ("org/second", SERVED):
            registry.models.set_alias(OLD, name)  # what `ftpipe models alias` does, in another process than the server
            answer = client.chat.completions.create(model=OLD, messages=[{"role": "user", "content": "hi"}])
            assert (answer.model, host.calls[-1].body["model"]) == (OLD, name)
        registry.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in (0, 143)
    assert f"{OLD} → {SERVED} at openai" in (tmp_path / "out").read_text(encoding="utf-8")
    (shadow,) = shadow_statuses(tmp_path / "data")
    assert (shadow.old, shadow.new, shadow.share, shadow.chats) == (OLD, "org/second", 1.0, 2)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written


def register_all(folder: Path, host: ChatHost) -> None:
    """A registry with two models, and an alias for one of them."""
    registry = open_registry(folder / "registry.db")
    for name in (SERVED, "org/second"):
        register(registry, folder, name, endpoint=host.base_url)
    registry.models.set_alias(OLD, SERVED)
    registry.close()


def address_of(data_dir: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of a server that starts."""
    deadline = time.monotonic() + SECONDS
    while not (data_dir / "server.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return str(json.loads((data_dir / "server.json").read_text(encoding="utf-8"))["base_url"])
