"""Train a task on a Ray cluster: Ray starts one process per GPU or machine; DDP or FSDP connects them.

Ray's core places the processes and brings back what rank 0 reports. Ray Train is not used: it needs pandas and
pyarrow, 254 MB more, and the rest of what it does, restarts and checkpoints, the server does for every job.

Source: sizes of Ray 2.60, pyarrow and pandas as installed, 2026-11-28.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftpipe.errors import LocalStateError, MissingExtraError
from ftpipe.modeling.device import select_device
from ftpipe.training.job_directory import WorkerConfig
from ftpipe.training.parallel import LOOPBACK_INTERFACE, Rank, choose_strategy, memory_per_process, process_group
from ftpipe.training.task import TrainingTask, train
from ftpipe.training.trainer import Report

WAIT_STATUS_INTERVAL_SECONDS = 5.0
PAUSE_POLL_SECONDS = 0.5
CONNECT_TIMEOUT_SECONDS = 10.0

StatusCallback = Callable[..., None]


def run_on_cluster(
    task: TrainingTask, config: WorkerConfig, should_pause: Callable[[], bool], on_status: StatusCallback
) -> Iterator[Report]:
    """Train a task with workers on a cluster; they end with this process, however it ends.

    Raises:
        MissingExtraError: Ray is not installed.
        LocalStateError: The cluster cannot be reached.
    """
    ray = _connect(config)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = config.workers or gpus or sum(bool(node["Alive"]) for node in ray.nodes())
        actors = _create_actors(ray, count, gpus=gpus)
        memory_bytes = min(_wait_until_ready(ray, actors, on_status))
        strategy = choose_strategy(
            config.strategy,
            required_bytes=task.required_bytes,
            memory_bytes=memory_bytes,
            is_quantized=task.device_config.quantization != "none",
        )
        address = ray.get(actors[0].open_store.remote(count))
        shared = ray.put((task.as_json(), _read_files(task)))
        streams = [
            actor.train.options(num_returns="streaming").remote(shared, address, Rank(index, count, strategy))
            for index, actor in enumerate(actors)
        ]
        yield from _reports(ray, streams, should_pause, lambda: actors[0].pause.remote())
    finally:
        ray.shutdown()


def _reports(
    ray: Any,  # noqa: ANN401 - the ray module, which only the extra brings
    streams: list[Any],
    should_pause: Callable[[], bool],
    pause: Callable[[], object],
) -> Iterator[Report]:
    """What rank 0 reports, until all workers have ended; an error of any worker is raised."""
    pausing = False
    while streams:
        if not pausing and should_pause():
            pause()
            pausing = True
        ready, _ = ray.wait(streams, num_returns=1, timeout=PAUSE_POLL_SECONDS)
        for stream in ready:
            try:
                report = ray.get(next(stream))
            except StopIteration:
                streams.remove(stream)
            else:
                yield report


def _connect(config: WorkerConfig) -> Any:  # noqa: ANN401 - the ray module, which only the extra brings
    try:
        import ray
    except ImportError as exc:
        raise MissingExtraError("the engine ray needs the ray extra", "pip install 'ftpipe[ray]'") from exc
    try:
        if config.address is not None:
            _check_reachable(config.address)
        ray.init(address=config.address or "auto", namespace="ftpipe", log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as exc:
        message = f"the Ray cluster at {config.address or 'the default address'} cannot be reached: {str(exc)[:200]}"
        raise LocalStateError(
            message, "start it with `ray start --head`, or give its address as --ray-address"
        ) from exc
    return ray


def _check_reachable(address: str) -> None:
    """Fail within seconds if nothing listens at the address; Ray itself would try for minutes.

    Raises:
        OSError: Nothing listens there.
        ValueError: It is not ``HOST:PORT``.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{address!r} is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()


def _create_actors(ray: Any, count: int, *, gpus: int) -> list[Any]:  # noqa: ANN401
    """Actors, spread over the machines; each gets its part of the cluster's CPUs, and a GPU if there are enough."""
    cores = max(1, int(ray.cluster_resources().get("CPU", count)) // count)
    variables = {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"}
    actor_class = ray.remote(_WorkerActor).options(
        num_cpus=cores,
        num_gpus=1 if gpus >= count else 0,
        max_concurrency=2,  # training, and a pause while it goes on
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": variables},
    )
    return [actor_class.remote() for _ in range(count)]


def _wait_until_ready(ray: Any, actors: list[Any], on_status: StatusCallback) -> list[int]:  # noqa: ANN401
    """The memory that each worker has, when the cluster has started all of them."""
    pending = results = [actor.memory_bytes.remote() for actor in actors]
    while pending:
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=WAIT_STATUS_INTERVAL_SECONDS)
        if pending:
            on_status(f"Waiting for {len(actors)} workers on the Ray cluster")
    memory: list[int] = ray.get(results)
    return memory


def _read_files(task: TrainingTask) -> dict[str, bytes]:
    """The files of this machine that a task names: the saved state, and the adapter that training starts from."""
    paths = [task.state_file] if task.state_file.exists() else []
    paths += sorted(task.initial_adapter.iterdir()) if task.initial_adapter is not None else []
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


class _WorkerActor:
    """The Ray actor of one rank."""

    def __init__(self) -> None:
        self._pausing = threading.Event()
        self._store: Any = None

    def memory_bytes(self) -> int:
        """Memory that this worker has, at most."""
        return memory_per_process(1)

    def open_store(self, world_size: int) -> tuple[str, int]:
        """Open the store at which the workers meet; its address."""
        import ray
        import torch.distributed as dist

        host = str(ray.util.get_node_ip_address())
        self._store = dist.TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def pause(self) -> None:
        """Let training end after the current step."""
        self._pausing.set()

    def train(
        self, shared: tuple[dict[str, Any], dict[str, bytes]], address: tuple[str, int], rank: Rank
    ) -> Iterator[Report]:
        """Train as one of the workers; only rank 0 reports."""
        import torch.distributed as dist

        from ftpipe.paths import models_dir

        data, files = shared
        host, port = address
        if host.startswith("127."):
            os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
        store = self._store or dist.TCPStore(host, port, rank.world_size, is_master=False)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            task = TrainingTask.from_json(data)
            task = replace(
                task,
                models_dir=models_dir(),
                device_config=select_device(task.device_config),
                state_file=Path(folder) / task.state_file.name,
                initial_adapter=None if task.initial_adapter is None else Path(folder),
            )
            with process_group(store, rank, task.device_config.device):
                for report in train(task, rank, self._pausing.is_set, fetch_base=True):
                    if rank.index == 0:
                        yield report
