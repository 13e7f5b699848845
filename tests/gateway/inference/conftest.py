"""An inference server, and a server of ftpipe that lets it answer and has tuned models of two owners."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ftpipe.gateway.inference import forwarding, server
from ftpipe.gateway.inference.routes import InferenceUpstream
from ftpipe.gateway.inference.server import InferenceSettings
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.services import ServerContext
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import CheckpointRow, JobRow
from tests.cli.cli_runner import CliEnvironment
from tests.fakes.chat_host import SECONDS, ChatHost
from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.live_server import LiveServer
from tests.server.fakes import FakeBaseModels, FakeValidation

FINAL_STEP, EARLIER_STEP = 4, 2

MakeServer = Callable[..., LiveServer]


@pytest.fixture
def host() -> Iterator[InferenceHost]:
    """An inference server that works as vLLM does."""
    with InferenceHost() as running:
        yield running


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CliEnvironment:
    """Runs commands in a folder of its own."""

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return CliEnvironment(read)


@pytest.fixture
def chat_host() -> Iterator[ChatHost]:
    """A server that is no inference server: it answers no GET."""
    with ChatHost() as running:
        yield running


@pytest.fixture(autouse=True)
def without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again at once, and look at the inference server often."""
    monkeypatch.setattr(forwarding, "RECONNECT_SECONDS", 0.0)
    monkeypatch.setattr(server, "POLL_SECONDS", 0.02)


@pytest.fixture
def make_server(tmp_path: Path, host: InferenceHost) -> Iterator[MakeServer]:
    """Starts servers; all are stopped in the end."""
    with ExitStack() as stack:

        def make(
            named: ModelRoutes | None = None, *, inference: dict[str, Any] | None = None, **changes: Any
        ) -> LiveServer:
            behind = InferenceUpstream(
                ServeSettings(data_dir=tmp_path / "data"),
                InferenceSettings(**({"url": host.url} | (inference or {}))),
                base_models=FakeBaseModels(),
                start_validation=FakeValidation,
                named=named,
            )
            live = stack.enter_context(LiveServer(tmp_path, behind=behind, **changes))
            assert health(live)["status"] == "ok"  # its start is over
            return live

        yield make


def add_model(context: ServerContext, job_id: str, owner: str = "local") -> str:
    """Add a tuned model with an earlier checkpoint, and return its name."""
    name = f"ft:{BASE}:local::{job_id}"
    directory = context.data_dir.job(job_id)
    for step in (EARLIER_STEP, FINAL_STEP):
        folder = directory.checkpoint_dir(step)
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    job = JobRow(
        id=job_id,
        owner=owner,
        created_at=1,
        model=BASE,
        base=BASE,
        model_name=name,
        method="supervised",
        training_file="file-1",
        validation_file=None,
        suffix=None,
        seed=1,
        requested_hyperparameters={},
        status="succeeded",
        validated=True,
        has_trainer=False,
        fine_tuned_model=name,
        final_step=FINAL_STEP,
        finished_at=2,
    )
    with context.store.write() as tx:
        tx.jobs.add(job)
        for step in (EARLIER_STEP, FINAL_STEP):
            tx.checkpoints.add(CheckpointRow(f"cp-{job_id}-{step}", job_id, 1, step, f"{name}:ckpt-step-{step}", {}))
    return name


def health(live: LiveServer) -> dict[str, Any]:
    """What the server says of itself."""
    value: dict[str, Any] = httpx2.get(f"http://127.0.0.1:{live.address[1]}/health", timeout=SECONDS).json()
    return value


def adapter_name(host: InferenceHost, job_id: str, step: int = FINAL_STEP) -> str:
    """The name of a loaded adapter at the inference server."""
    (name,) = [name for name in host.adapters if name.endswith(f"-{job_id}-{step}")]
    return name


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
