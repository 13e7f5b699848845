"""Who computes a job: this process alone, several on this machine, or workers on a Ray cluster."""

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

from ftpipe.errors import LocalStateError, MissingExtraError
from ftpipe.modeling.device import DeviceConfig
from ftpipe.training.distributed import DistributedObjective, init_process_group, run_worker
from ftpipe.training.job_directory import JobDirectory, WorkerConfig
from ftpipe.training.lora import adapter_settings
from ftpipe.training.trainer import Trainer

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
RENDEZVOUS_DIR = ".new-meeting"
"""File in the job's folder that the processes of one machine find each other by; removed as half-written at a start."""
STILL_WAITING_S = 5.0
CONNECT_TIMEOUT_S = 10.0

Say = Callable[..., None]


@contextmanager
def distributed(
    loop: Trainer, crew: WorkerConfig, *, method: str, machine: DeviceConfig, models_dir: Path, say: Say
) -> Iterator[Trainer]:
    """``loop`` with its work shared among the crew; unchanged where there is nobody to share with.

    Raises:
        MissingExtraError: Ray is wanted and not installed.
        LocalStateError: The cluster cannot be reached.
    """
    if crew.engine == "ray":
        gathered = _ray_workers(crew, say)
    elif (count := crew.workers or gpu_count()) > 1:
        gathered = _local_workers(count, loop.folder)
    else:
        yield loop
        return
    with gathered as (size, leader_computes):
        task = {
            "base": loop.base,
            "models_dir": str(models_dir),
            "device_config": vars(machine),
            "adapter": adapter_settings(loop.model),
        }
        shared = DistributedObjective(
            loop.objective, method=method, model=loop.model, task=task, size=size, leader_computes=leader_computes
        )
        loop.objective = shared
        yield loop
        shared.close()


def gpu_count() -> int:
    """How many graphics cards torch can use; 0 on a machine without."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextmanager
def _local_workers(size: int, folder: JobDirectory) -> Iterator[tuple[int, bool]]:
    """Processes on this machine, one for each graphics card; on a CPU they divide its cores."""
    import torch
    import torch.distributed as dist

    place = folder.path / RENDEZVOUS_DIR
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    threads = max(1, torch.get_num_threads() // size)
    torch.set_num_threads(threads)
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    followers = [_start(place, rank, size, threads) for rank in range(1, size)]
    try:
        init_process_group(dist.FileStore(str(place / "store"), size), rank=0, size=size)
        yield size, True
        for follower in followers:
            follower.wait(10)
    finally:
        for follower in followers:
            with suppress(ProcessLookupError):
                follower.kill()
            follower.wait()
        shutil.rmtree(place, ignore_errors=True)


def _start(place: Path, rank: int, size: int, threads: int) -> subprocess.Popen[bytes]:
    cards = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    mine = cards[rank] if rank < len(cards) else str(rank)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": mine}
    command = [sys.executable, "-m", "ftpipe.training", "--worker", str(place / "store"), str(rank), str(size)]
    return subprocess.Popen(command, env=environment)


def run_local_worker(store: str, rank: int, size: int) -> None:
    """Work for the leader on this machine that is to be met at the file ``store``."""
    import torch.distributed as dist

    run_worker(dist.FileStore(store, size), rank=rank, size=size)


@contextmanager
def _ray_workers(crew: WorkerConfig, say: Say) -> Iterator[tuple[int, bool]]:
    """Workers on a Ray cluster; they end with this process, however it ends."""
    import torch.distributed as dist

    ray = _connected(crew)
    try:
        here = ray.get_runtime_context().get_node_id()
        host = next(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == here)
        cards = int(ray.cluster_resources().get("GPU", 0))
        count = crew.workers or cards or sum(bool(node["Alive"]) for node in ray.nodes())
        if host.startswith("127."):
            os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
        workers = _create_actors(ray, count, cards=cards, loopback=host.startswith("127."))
        _wait_for(ray, workers, count, say)
        store = dist.TCPStore(host, 0, count + 1, is_master=True, wait_for_workers=False)
        at_work = [
            worker.follow.remote(host, store.port, rank, count + 1) for rank, worker in enumerate(workers, start=1)
        ]
        init_process_group(store, rank=0, size=count + 1)
        yield count + 1, False
        ray.get(at_work, timeout=30)
    finally:
        ray.shutdown()


def _connected(crew: WorkerConfig) -> Any:  # noqa: ANN401 - ray carries types of its own, behind an extra
    try:
        import ray
    except ImportError as exc:
        raise MissingExtraError("the engine ray needs the ray extra", "pip install 'ftpipe[ray]'") from exc
    try:
        if crew.address is not None:
            _check_reachable(crew.address)
        ray.init(address=crew.address or "auto", namespace="ftpipe", log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as exc:
        message = f"the Ray cluster at {crew.address or 'the usual place'} cannot be reached: {str(exc)[:200]}"
        raise LocalStateError(
            message, "start it with `ray start --head`, or give its address as --ray-address"
        ) from exc
    return ray


def _check_reachable(address: str) -> None:
    """Find out in seconds what Ray would find out in minutes.

    Raises:
        OSError: Nobody listens there.
        ValueError: It is no ``HOST:PORT``.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{address!r} is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _create_actors(ray: Any, count: int, *, cards: int, loopback: bool) -> list[Any]:  # noqa: ANN401
    """Actors, spread over the machines; each gets its part of the cluster's processors, and a graphics card if any."""
    cores = max(1, int(ray.cluster_resources().get("CPU", count)) // count)
    variables = {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"}
    if loopback:
        variables["GLOO_SOCKET_IFNAME"] = LOOPBACK
    kind = ray.remote(_Worker).options(
        num_cpus=cores,
        num_gpus=1 if cards >= count else 0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": variables},
    )
    return [kind.remote() for _ in range(count)]


def _wait_for(ray: Any, workers: list[Any], count: int, say: Say) -> None:  # noqa: ANN401
    pending = [worker.ready.remote() for worker in workers]
    while pending:
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=STILL_WAITING_S)
        if pending:
            say(f"Waiting for {count} workers on the Ray cluster")


class _Worker:
    """What runs on the cluster."""

    def ready(self) -> bool:
        """Answers once the cluster had room."""
        return True

    def follow(self, host: str, port: int, rank: int, size: int) -> None:
        """Work for the leader at ``host``."""
        import torch.distributed as dist

        from ftpipe.paths import models_dir

        run_worker(dist.TCPStore(host, port, size, is_master=False), rank=rank, size=size, models_dir=models_dir())
