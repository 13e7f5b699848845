"""A job on several processes trains the same model as on one, whatever each of them holds, and survives their loss."""

from __future__ import annotations

import csv
import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftpipe.errors import UsageError
from ftpipe.training import launcher
from ftpipe.training.__main__ import main
from ftpipe.training.job_directory import JobDirectory, WorkerConfig
from ftpipe.training.launcher import LostWorkerError, WorkerArguments, machine_of_process, run_task
from ftpipe.training.parallel import Rank, choose_strategy
from ftpipe.training.run import run_job
from tests.training.test_dpo import PAIRS
from tests.training.test_run import run_process, wait_for_step
from tests.training.tiny_model import events, make_job, result, rows, with_workers, write_rows

GIB = 1 << 30


def losses(folder: Path) -> list[float]:
    """Training and validation losses of all steps."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("train_loss", "valid_loss") if row[name]]


def steps(folder: Path) -> list[int]:
    """The steps whose metrics were reported, in the order of the events."""
    return [event["data"]["step"] for event in events(folder) if event["type"] == "metrics"]


def job(folder: Path, base: Path, **requested: Any) -> Path:
    """Three steps of five, five and one row: with two processes, one has no row in the last step."""
    data = write_rows(folder.parent / "train.jsonl", rows(11))
    return make_job(folder, base, data=data, **{"n_epochs": 1, "batch_size": 5, "lora_dropout": 0.0, **requested})


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize(("strategy", "method"), [("ddp", "supervised"), ("fsdp", "supervised"), ("fsdp", "dpo")])
def test_processes_match_one(base: Path, tmp_path: Path, strategy: str, method: str) -> None:
    """Losses and tokens of every step agree; no step is reported twice, no file left over."""
    extra: dict[str, Any] = {"data": write_rows(tmp_path / "d.jsonl", PAIRS), "valid": False} if method == "dpo" else {}
    single, parallel = (
        make_job(tmp_path / name, base, method=method, n_epochs=1, batch_size=5, lora_dropout=0.0, **extra)
        if extra
        else job(tmp_path / name, base)
        for name in ("single", "parallel")
    )
    with_workers(parallel, workers=2, strategy=strategy)
    assert run_job(JobDirectory(single)) == "succeeded"
    assert run_job(JobDirectory(parallel)) == "succeeded"
    assert losses(parallel) == pytest.approx(losses(single), abs=1e-3)
    assert result(parallel)["trained_tokens"] == result(single)["trained_tokens"]
    assert steps(parallel) == steps(single)
    assert not list(parallel.rglob(".*"))


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_sharded_state_resumes_in_one_process_and_back(base: Path, tmp_path: Path) -> None:
    """A job that is paused after each step, and continues with another number of processes."""
    single, changing = job(tmp_path / "single", base), job(tmp_path / "changing", base)
    assert run_job(JobDirectory(single)) == "succeeded"
    for config, ended in (
        ({"workers": 2, "strategy": "fsdp"}, "paused"),
        ({}, "paused"),
        ({"workers": 2, "strategy": "fsdp"}, "succeeded"),
    ):
        with_workers(changing, **config)
        assert run_job(JobDirectory(changing), lambda: True) == ended
    assert steps(changing) == [1, 2, 3]
    assert losses(changing) == pytest.approx(losses(single), abs=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_worker_costs_what_was_not_saved(base: Path, tmp_path: Path, strategy: str) -> None:
    """The trainer ends as the worker did, leaves no process, and the next one continues; nothing is trained twice."""
    data = write_rows(tmp_path / "train.jsonl", rows(48))
    alone, killed = (
        make_job(tmp_path / name, base, data=data, valid=False, lora_dropout=0.0, n_epochs=3)
        for name in ("alone", "killed")
    )
    with_workers(killed, workers=2, strategy=strategy)
    process = run_process(killed)
    wait_for_step(killed, 14, process)
    (worker,) = (child for child in psutil.Process(process.pid).children() if "--worker" in child.cmdline())
    worker.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert b"a worker was killed by signal 9" in errors
    assert not (killed / "result.json").exists()
    assert run_job(JobDirectory(killed)) == "succeeded"
    resumed = next(event["message"] for event in events(killed) if event["message"].startswith("Training resumed"))
    assert int(resumed.split()[-1].split("/")[0]) >= 12  # the last checkpoint
    assert run_job(JobDirectory(alone)) == "succeeded"
    assert steps(killed) == steps(alone) == list(range(1, 37))
    assert losses(killed) == pytest.approx(losses(alone), abs=1e-3)


def test_choose_strategy_shards_a_base_that_does_not_fit() -> None:
    """Its memory is that of a process that has the whole base."""
    assert choose_strategy("auto", required_bytes=16 * GIB, memory_bytes=80 * GIB) == "ddp"
    assert choose_strategy("auto", required_bytes=140 * GIB, memory_bytes=80 * GIB) == "fsdp"
    assert choose_strategy("ddp", required_bytes=140 * GIB, memory_bytes=80 * GIB) == "ddp"
    assert choose_strategy("auto", required_bytes=140 * GIB, memory_bytes=80 * GIB, is_quantized=True) == "ddp"


def test_machine_of_process_has_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines of a cluster are not known here."""
    monkeypatch.setattr(launcher, "gpu_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("ftpipe.training.parallel.available_memory", lambda: 16 * GIB)
    machines = [machine_of_process(WorkerConfig(workers=workers)) for workers in (0, 4)]
    assert [(machine.memory_bytes, machine.count) for machine in machines] == [(16 * GIB, 1), (4 * GIB, 4)]
    assert machine_of_process(WorkerConfig("ray", workers=8)).memory_bytes is None


def test_choose_strategy_does_not_divide_quantized_weights() -> None:
    with pytest.raises(UsageError, match="quantized weights"):
        choose_strategy("fsdp", required_bytes=GIB, memory_bytes=GIB, is_quantized=True)


def test_worker_arguments_round_trip(tmp_path: Path) -> None:
    arguments = WorkerArguments(tmp_path, Rank(3, 4, "fsdp"))
    command = arguments.command()
    assert command[:4] == [sys.executable, "-m", "ftpipe.training", "--worker"]
    assert WorkerArguments.parse(command[4:]) == arguments


def test_more_workers_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on one GPU would wait for each other without end; the message says what to give."""
    monkeypatch.setattr(launcher, "gpu_count", lambda: 2)
    task: Any = None
    with pytest.raises(UsageError, match="3 workers were requested for 2 GPUs") as refused:
        run_task(task, WorkerConfig(workers=3), JobDirectory(tmp_path), lambda: False, lambda *_: None)
    assert "--workers 2" in (refused.value.hint or "")


def test_main_ends_like_the_lost_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the server sees a lack of memory in a worker as one."""
    ended: list[int] = []

    def fail(*_: object) -> str:
        raise LostWorkerError(71)

    monkeypatch.setattr("ftpipe.training.run.run_job", fail)
    monkeypatch.setattr(launcher, "end_like", ended.append)
    main([str(tmp_path)])
    assert ended == [71]


def test_task_is_written_for_workers(base: Path, tmp_path: Path) -> None:
    """A pair and an example survive JSON with all that a worker needs."""
    from ftpipe.modeling.chat_tokenizer import Example
    from ftpipe.modeling.device import DeviceConfig
    from ftpipe.training.dpo import Pair
    from ftpipe.training.hyperparameters import ResolvedHyperparameters
    from ftpipe.training.task import TrainingTask

    example = Example((1, 2, 3), (-100, 2, 3))
    rows: tuple[tuple[str, Any], ...] = (("supervised", example), ("dpo", Pair(example, example, -1.5, -2.5)))
    for method, row in rows:
        task = TrainingTask(
            method=method,
            base_model="org/base",
            models_dir=tmp_path,
            device_config=DeviceConfig("cpu", "float32"),
            hyperparameters=ResolvedHyperparameters(1, 4, 1.0, 1e-3),
            seed=7,
            training=[row],
            validation=[],
            required_bytes=12,
            state_file=tmp_path / "state.safetensors",
            initial_adapter=tmp_path,
        )
        assert TrainingTask.from_json(json.loads(json.dumps(task.as_json()))) == task
