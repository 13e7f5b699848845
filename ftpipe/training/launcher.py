"""Start the processes that compute a job: this one alone, several on this machine, or actors on a Ray cluster."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ftpipe.child_environment import child_environment
from ftpipe.errors import LocalStateError, MissingExtraError
from ftpipe.modeling.device import DeviceConfig
from ftpipe.training.distributed import DistributedObjective, init_process_group, run_worker
from ftpipe.training.job_directory import JobDirectory, WorkerConfig
from ftpipe.training.lora import adapter_config
from ftpipe.training.trainer import Trainer

LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
WAIT_STATUS_INTERVAL_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 10.0
SHUTDOWN_TIMEOUT_SECONDS = 10.0
"""How long a local worker may take to exit after the shutdown message before it is killed."""
RAY_SHUTDOWN_TIMEOUT_SECONDS = 30.0

StatusCallback = Callable[..., None]


@contextmanager
def distributed(
    trainer: Trainer,
    config: WorkerConfig,
    *,
    method: str,
    device_config: DeviceConfig,
    models_dir: Path,
    on_status: StatusCallback,
) -> Iterator[Trainer]:
    """``trainer`` with its batches computed by a process group; unchanged if this process is the only one.

    Raises:
        MissingExtraError: Ray is requested and not installed.
        LocalStateError: The cluster cannot be reached.
    """
    if config.engine == "ray":
        workers = _ray_workers(config, on_status)
    elif (count := config.workers or gpu_count()) > 1:
        workers = _local_workers(count, trainer.directory)
    else:
        yield trainer
        return
    with workers as (world_size, leader_computes):
        objective = DistributedObjective(
            trainer.objective,
            method=method,
            model=trainer.model,
            task={
                "base_model": trainer.base_model,
                "models_dir": str(models_dir),
                "device_config": vars(device_config),
                "adapter_config": adapter_config(trainer.model),
                "hyperparameters": trainer.hyperparameters.as_json(),
            },
            world_size=world_size,
            leader_computes=leader_computes,
        )
        trainer.objective = objective
        yield trainer
        objective.close()


def gpu_count() -> int:
    """Number of GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextmanager
def _local_workers(world_size: int, directory: JobDirectory) -> Iterator[tuple[int, bool]]:
    """Processes on this machine, one per GPU; on a CPU they divide its cores."""
    import torch
    import torch.distributed as dist

    rendezvous_dir = directory.rendezvous_dir
    shutil.rmtree(rendezvous_dir, ignore_errors=True)
    rendezvous_dir.mkdir(mode=0o700)
    store_path = rendezvous_dir / "store"
    threads = max(1, torch.get_num_threads() // world_size)
    torch.set_num_threads(threads)
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
    workers = [_start_local_worker(store_path, rank, world_size, threads) for rank in range(1, world_size)]
    try:
        init_process_group(dist.FileStore(str(store_path), world_size), rank=0, world_size=world_size)
        yield world_size, True
        for worker in workers:
            worker.wait(SHUTDOWN_TIMEOUT_SECONDS)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.kill()
            worker.wait()
        shutil.rmtree(rendezvous_dir, ignore_errors=True)


def _start_local_worker(store_path: Path, rank: int, world_size: int, threads: int) -> subprocess.Popen[bytes]:
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpu = gpus[rank] if rank < len(gpus) else str(rank)
    environment = child_environment({"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": gpu})
    command = [sys.executable, "-m", "ftpipe.training", "--worker", str(store_path), str(rank), str(world_size)]
    return subprocess.Popen(command, env=environment)


def run_local_worker(store_path: str, rank: int, world_size: int) -> None:
    """Compute for the leader on this machine; they meet at the file store ``store_path``."""
    import torch.distributed as dist

    run_worker(dist.FileStore(store_path, world_size), rank=rank, world_size=world_size)


@contextmanager
def _ray_workers(config: WorkerConfig, on_status: StatusCallback) -> Iterator[tuple[int, bool]]:
    """Workers on a Ray cluster; they end with this process, however it ends."""
    import torch.distributed as dist

    ray = _connect(config)
    try:
        node_id = ray.get_runtime_context().get_node_id()
        host = next(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == node_id)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = config.workers or gpus or sum(bool(node["Alive"]) for node in ray.nodes())
        world_size = count + 1
        if host.startswith("127."):
            os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
        actors = _create_actors(ray, count, gpus=gpus, loopback=host.startswith("127."))
        _wait_until_ready(ray, actors, on_status)
        store = dist.TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False)
        runs = [actor.run.remote(host, store.port, rank, world_size) for rank, actor in enumerate(actors, start=1)]
        init_process_group(store, rank=0, world_size=world_size)
        yield world_size, False
        ray.get(runs, timeout=RAY_SHUTDOWN_TIMEOUT_SECONDS)
    finally:
        ray.shutdown()


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


def _create_actors(ray: Any, count: int, *, gpus: int, loopback: bool) -> list[Any]:  # noqa: ANN401
    """Actors, spread over the machines; each gets its part of the cluster's CPUs, and a GPU if there are enough."""
    cores = max(1, int(ray.cluster_resources().get("CPU", count)) // count)
    variables = {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"}
    if loopback:
        variables["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
    actor_class = ray.remote(_WorkerActor).options(
        num_cpus=cores,
        num_gpus=1 if gpus >= count else 0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": variables},
    )
    return [actor_class.remote() for _ in range(count)]


def _wait_until_ready(ray: Any, actors: list[Any], on_status: StatusCallback) -> None:  # noqa: ANN401
    pending = [actor.ready.remote() for actor in actors]
    while pending:
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=WAIT_STATUS_INTERVAL_SECONDS)
        if pending:
            on_status(f"Waiting for {len(actors)} workers on the Ray cluster")


class _WorkerActor:
    """The Ray actor of one worker."""

    def ready(self) -> bool:
        """Return once the cluster has scheduled this actor."""
        return True

    def run(self, host: str, port: int, rank: int, world_size: int) -> None:
        """Compute for the leader, whose store listens at ``host`` and ``port``."""
        import torch.distributed as dist

        from ftpipe.paths import models_dir

        store = dist.TCPStore(host, port, world_size, is_master=False)
        run_worker(store, rank=rank, world_size=world_size, models_dir=models_dir())
