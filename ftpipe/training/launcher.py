"""Train a task where it was requested: in this process, in several of this machine, or on a Ray cluster.

The processes of one machine are started as torchrun starts them, one per GPU, and end together if one is lost. They
meet at a file that only their user can read, and end with the trainer. torchrun itself is not used: in its standalone
mode it listens on all interfaces for whoever connects, and its processes outlive it if it is killed.

Source: sockets and processes of ``torch.distributed.run`` of torch 2.13, 2026-11-29.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.atomic_files import read_json, write_json
from ftpipe.child_environment import child_environment
from ftpipe.errors import UsageError
from ftpipe.modeling.device import select_device
from ftpipe.modeling.machine import Machine
from ftpipe.training.job_directory import JobDirectory, WorkerConfig
from ftpipe.training.parallel import ALONE, LOOPBACK_INTERFACE, Rank, choose_strategy, memory_per_process, process_group
from ftpipe.training.task import TrainingTask, train

if TYPE_CHECKING:
    from ftpipe.training.trainer import Report

SHUTDOWN_TIMEOUT_SECONDS = 60.0
"""How long a worker may take to exit after the last step before it is killed."""
LOST_WORKER_GRACE_SECONDS = 10.0
"""How long rank 0 may take to notice that a worker is lost; NCCL can wait for it much longer."""
PARENT_POLL_SECONDS = 0.5
"""How often a worker checks that its trainer lives; a trainer that was killed could not stop it."""


class LostWorkerError(RuntimeError):
    """A process that trained a job with this one has ended before it, with this exit code."""

    def __init__(self, exit_code: int) -> None:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        super().__init__(f"a worker {how}")
        self.exit_code = exit_code


def run_task(
    task: TrainingTask,
    config: WorkerConfig,
    directory: JobDirectory,
    should_pause: Callable[[], bool],
    on_status: Callable[..., None],
) -> Iterator[Report]:
    """Train a task with the processes that its server was told to use.

    Raises:
        MissingExtraError: Ray is requested and not installed.
        UsageError: There are fewer GPUs than processes were requested.
        LocalStateError: The cluster cannot be reached.
        LostWorkerError: A worker was lost; the job can resume from its last state.
    """
    if config.engine == "ray":
        from ftpipe.training.ray_cluster import run_on_cluster

        return run_on_cluster(task, config, should_pause, on_status)
    count = process_count(config)
    return (
        _run_processes(task, config, directory, should_pause, count) if count > 1 else train(task, ALONE, should_pause)
    )


def process_count(config: WorkerConfig) -> int:
    """Number of processes of this machine that train a job: as configured, else one per GPU.

    Raises:
        UsageError: There are fewer GPUs than that.
    """
    gpus = gpu_count()
    count = config.workers or gpus or 1
    if gpus and count > gpus:
        raise UsageError(f"{count} workers were requested for {gpus} GPUs", f"give --workers {gpus} or less")
    return count


def machine_of_process(config: WorkerConfig) -> Machine:
    """What each process of a job can have; the memory of a cluster's machines is not known before they are reached."""
    selected, is_remote = select_device(), config.engine == "ray"
    count = max(1, config.workers) if is_remote else process_count(config)
    memory_bytes = None if is_remote else memory_per_process(count)
    return Machine(selected.device, memory_bytes, count, has_bfloat16=selected.dtype == "bfloat16")


def gpu_count() -> int:
    """Number of GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@dataclass(frozen=True)
class WorkerArguments:
    """Command line of a worker: where it meets the others, and which of them it is."""

    folder: Path
    rank: Rank

    def command(self) -> list[str]:
        """Starts the worker."""
        numbers = [str(self.rank.index), str(self.rank.world_size), self.rank.strategy]
        return [sys.executable, "-m", "ftpipe.training", "--worker", str(self.folder), *numbers]

    @classmethod
    def parse(cls, arguments: list[str]) -> WorkerArguments:
        """The arguments behind ``--worker``."""
        folder, index, world_size, strategy = arguments
        return cls(Path(folder), Rank(int(index), int(world_size), strategy))


def run_worker(arguments: WorkerArguments) -> None:
    """Train a shard of every batch of a task that the trainer of this machine has written down."""
    import torch.distributed as dist

    _end_with_parent()
    data = read_json(arguments.folder / "task.json")
    if data is None:
        return  # the trainer has ended and removed it
    task = TrainingTask.from_json(data)
    store = dist.FileStore(str(arguments.folder / "store"), arguments.rank.world_size)
    with process_group(store, arguments.rank, task.device_config.device):
        for _ in train(task, arguments.rank):
            pass


def _run_processes(
    task: TrainingTask, config: WorkerConfig, directory: JobDirectory, should_pause: Callable[[], bool], count: int
) -> Iterator[Report]:
    """Train with processes on this machine, one per GPU; on a CPU they divide its cores. This one has rank 0."""
    import torch
    import torch.distributed as dist

    directory.rendezvous_dir.mkdir(mode=0o700, exist_ok=True)
    # a folder for each start, so that no worker of an earlier one can join
    folder = Path(tempfile.mkdtemp(dir=directory.rendezvous_dir))
    write_json(folder / "task.json", task.as_json(), mode=0o600)
    threads = max(1, torch.get_num_threads() // count)
    torch.set_num_threads(threads)
    os.environ.update(GLOO_SOCKET_IFNAME=LOOPBACK_INTERFACE, NCCL_SOCKET_IFNAME=LOOPBACK_INTERFACE)
    strategy = choose_strategy(
        config.strategy,
        required_bytes=task.required_bytes,
        memory_bytes=memory_per_process(count),
        is_quantized=task.device_config.quantization != "none",
    )
    workers = [_start_worker(folder, Rank(index, count, strategy), threads) for index in range(1, count)]
    done = threading.Event()
    threading.Thread(target=_watch, args=(workers, done), daemon=True).start()
    try:
        store = dist.FileStore(str(folder / "store"), count)
        rank = Rank(0, count, strategy)
        with process_group(store, rank, task.device_config.device):
            yield from train(task, rank, should_pause)
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(SHUTDOWN_TIMEOUT_SECONDS)
    except RuntimeError as exc:
        lost = _exit_code_of_lost(workers)
        if lost is None:
            raise
        raise LostWorkerError(lost) from exc
    finally:
        done.set()
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.kill()
            worker.wait()
        shutil.rmtree(directory.rendezvous_dir, ignore_errors=True)


def _start_worker(folder: Path, rank: Rank, threads: int) -> subprocess.Popen[bytes]:
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpu = gpus[rank.index] if rank.index < len(gpus) else str(rank.index)
    environment = child_environment({"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": gpu})
    return subprocess.Popen(WorkerArguments(folder, rank).command(), env=environment)


def _watch(workers: list[subprocess.Popen[bytes]], done: threading.Event) -> None:
    """End this process if a worker is lost and the main thread does not notice."""
    while not done.wait(PARENT_POLL_SECONDS):
        exit_code = next((worker.returncode for worker in workers if worker.poll()), None)
        if exit_code is not None and not done.wait(LOST_WORKER_GRACE_SECONDS):
            sys.stderr.write(f"{LostWorkerError(exit_code)}\n")
            sys.stderr.flush()
            end_like(exit_code)


def _exit_code_of_lost(workers: list[subprocess.Popen[bytes]]) -> int | None:
    """Exit code of a worker that has failed by itself; waits a moment, as its connections end before it does."""
    deadline = time.monotonic() + LOST_WORKER_GRACE_SECONDS
    while time.monotonic() < deadline:
        codes = [worker.returncode for worker in workers if worker.poll()]
        if codes:
            return codes[0]
        time.sleep(PARENT_POLL_SECONDS / 10)
    return None


def end_like(exit_code: int) -> None:
    """End this process at once in the way in which another one ended, so that its supervisor sees the same cause."""
    if exit_code < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(exit_code)


def _end_with_parent() -> None:
    """End this process when the trainer that started it has ended in whatever way."""
    parent = os.getppid()

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=poll, daemon=True).start()
